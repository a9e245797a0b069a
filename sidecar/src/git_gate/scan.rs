//! The leak scan of a push: every object that upstream does not have, read once and looked into.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use bottle_detector::{Detector, Finding, Stream, What, mask};
use bottle_planner::escape::visible;
use bottle_planner::proposal::FINGERPRINT;
use bottle_planner::words::Digest;
use memchr::memmem;

use super::git::{feed, run};
use super::mirror::Mirror;
use super::objects::{Kind, Object};
use super::views::{TooMuch, View, Viewer};
use super::wide::{Order, Wide};
use crate::passing::unmeant;

/// As many findings are told; a push that has more is refused just the same.
pub(super) const MOST_FINDINGS: usize = 20;
/// After so many no more are looked for.
const ENOUGH: usize = 200;
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// A commit, tree or tag is looked at as a whole: larger ones are refused.
const LARGEST_PART: u64 = 64 << 20;
/// Nothing that is asked about a finding has a longer answer.
const LONGEST: u64 = 64 << 20;
/// A file is compared with upstream's up to this size, and a finding from this length on: a shorter
/// one could be anything.
const LARGEST_COMPARED: u64 = 8 << 20;
const SHORTEST_COMPARED: usize = 16;
/// With so many of upstream's commits, and so many different findings of one file: of the others it is
/// not known that upstream has them.
const MOST_BASES: usize = 16;
const MOST_COMPARED: usize = 1000;
/// The rule of what could not be looked into.
const LIMIT_UNPACK: &str = "limit-unpack";

/// Something that was found, before it is known which commit brings it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) rule: String,
    /// In which object, and how far into it.
    pub(super) object: String,
    pub(super) at: u64,
    /// In which reading of the object that is.
    pub(super) part: &'static str,
    pub(super) place: String,
    pub(super) line: Option<u64>,
}

impl Found {
    /// Names this finding and no other, and says nothing of the secret. Half of the digest: whoever
    /// makes two findings of one name, to show the harmless one, needs 2^64 tries.
    pub(super) fn fingerprint(&self) -> String {
        let text = format!("{}\0{}\0{}\0{}", self.rule, self.object, self.part, self.at);
        Digest::of(text.as_bytes()).hex().chars().take(FINGERPRINT).collect()
    }

    /// Whether it says that not all was looked at. Nobody can let through what nobody saw.
    pub(super) fn is_limit(&self) -> bool {
        self.rule.starts_with("limit-")
    }
}

/// One scan: what is looked for, and what passes.
pub(super) struct Scan<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) quarantine: Option<&'a Path>,
    /// The new ids of the pushed refs.
    pub(super) tips: &'a [&'a str],
    pub(super) detector: Detector,
    /// Names of values that this upstream is meant to see.
    pub(super) passing: BTreeSet<String>,
    /// Bytes looked at so far, for whoever shows the progress.
    pub(super) done: &'a AtomicU64,
    /// Commits of upstream's that the new ones come after, once somebody asked.
    pub(super) bases: OnceLock<Vec<String>>,
    /// Whether there may be more than was told: the scan stopped, since what it had was enough to
    /// refuse the push.
    pub(super) cut: AtomicBool,
}

impl Scan<'_> {
    /// Looks into all objects, on as many threads as there are cores.
    ///
    /// # Errors
    ///
    /// git cannot read an object: nothing passes that was not looked at.
    pub(super) fn objects(&self, objects: &[Object]) -> io::Result<Vec<Found>> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(objects.len());
        let parts = share_out(objects, threads);
        let told = AtomicUsize::new(0);
        let results: Vec<io::Result<Vec<Found>>> = thread::scope(|scope| {
            let begun: Vec<_> =
                parts.iter().map(|part| scope.spawn(|| self.part(part, &told))).collect();
            let broke = || Err(io::Error::other("the scan broke off"));
            begun.into_iter().map(|part| part.join().unwrap_or_else(|_| broke())).collect()
        });
        let mut found = Vec::new();
        for result in results {
            found.extend(result?);
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// What is found in a short text that is no object: the name of a ref.
    pub(super) fn text(&self, text: &str) -> Vec<Finding> {
        self.meant(self.detector.scan(text.as_bytes()))
    }

    /// A name as it may be told and logged: without any secret that is in it.
    pub(super) fn shown(&self, name: &str) -> String {
        self.shown_but(name, 0, None)
    }

    /// The same of a name that begins `base` bytes into where this was found.
    fn shown_but(&self, name: &str, base: u64, finding: Option<&Finding>) -> String {
        let mut bytes = name.as_bytes().to_vec();
        let found: Vec<_> = self.detector.scan(&bytes).iter().map(whole).collect();
        mask(&mut bytes, 0, &found);
        mask(&mut bytes, base, &finding.map(whole).into_iter().collect::<Vec<_>>());
        visible(&String::from_utf8_lossy(&bytes))
    }

    /// What is left once what the manifest lets pass is taken out, and the patterns that it is.
    fn meant(&self, found: Vec<Finding>) -> Vec<Finding> {
        unmeant(found, |name| self.passing.contains(name))
    }

    fn part(&self, objects: &[&Object], told: &AtomicUsize) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut reader = Reader::open(self.mirror, self.quarantine, objects)?;
        for object in objects {
            if told.load(Ordering::Relaxed) >= ENOUGH {
                self.cut.store(true, Ordering::Relaxed);
                break;
            }
            reader.begin(object)?;
            let of_object = match object.kind {
                Kind::Blob => self.blob(object, &mut reader)?,
                kind => {
                    if object.size > LARGEST_PART {
                        return Err(io::Error::other(format!("{} is too large", object.id)));
                    }
                    let mut bytes = Vec::new();
                    reader.read_to_end(&mut bytes)?;
                    match kind {
                        Kind::Tree => self.tree(object, &bytes)?,
                        _ => self.words(object, &bytes),
                    }
                }
            };
            reader.end()?;
            told.fetch_add(of_object.len(), Ordering::Relaxed);
            found.extend(of_object);
            self.done.fetch_add(object.size, Ordering::Relaxed);
        }
        reader.close()?;
        Ok(found)
    }

    /// A file's content, in each of its views. A rule that asks for a file's path is tried too; a
    /// list of paths that a rule lets pass is not asked: who pushes chooses the path.
    fn blob(&self, object: &Object, reader: &mut Reader) -> io::Result<Vec<Found>> {
        let mut streams: Vec<(View, Stream)> = Vec::new();
        let by_path = self.detector.asks_for_paths().then(|| self.detector.for_path(&object.path));
        let detectors = || [Some(&self.detector), by_path.as_ref()].into_iter().flatten();
        let mut found: Vec<(View, Finding)> = Vec::new();
        let mut viewer = Viewer::new();
        let mut piece = vec![0; PIECE.min(usize::try_from(object.size).unwrap_or(PIECE).max(1))];
        loop {
            let n = reader.read(&mut piece)?;
            if n == 0 {
                break;
            }
            let fed = viewer.feed(&piece[..n], |view, bytes| {
                if !streams.iter().any(|(of, _)| *of == view) {
                    streams.extend(detectors().map(|detector| (view, detector.stream())));
                }
                for (of, stream) in streams.iter_mut().filter(|(of, _)| *of == view) {
                    found.extend(stream.feed(bytes).into_iter().map(|finding| (*of, finding)));
                }
            });
            if fed == Err(TooMuch) {
                let what = What::Rule(LIMIT_UNPACK.into());
                found.push((View::Unpacked, Finding { what, span: 0..0, layers: Vec::new() }));
                reader.skip()?;
                break;
            }
        }
        for (view, stream) in &mut streams {
            found.extend(stream.finish().into_iter().map(|finding| (*view, finding)));
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let mut told = Vec::new();
        for view in View::ALL {
            let of_view = found.iter().filter(|(of, _)| *of == view).map(|(_, f)| f.clone());
            let mut of_view = self.meant(of_view.collect());
            // Before any is left out: what upstream has, however often, must not be all that is told.
            if view == View::Raw {
                of_view = self.unknown(object, of_view);
            }
            if of_view.len() > MOST_FINDINGS {
                self.cut.store(true, Ordering::Relaxed);
            }
            for finding in of_view.into_iter().take(MOST_FINDINGS) {
                let found = Found {
                    rule: rule(&finding.what).to_owned(),
                    object: object.id.clone(),
                    at: finding.span.start,
                    part: view.clause(),
                    place: format!("{}{}", self.shown(&object.path), view.clause()),
                    line: self.line(object, view, finding.span.start),
                };
                // Two of one line are two, or one exception would let both through. Wide text is
                // read in both orders and mostly found in both, a character apart.
                if !told.contains(&found) {
                    told.push(found);
                }
            }
        }
        Ok(told)
    }

    /// Those whose very bytes upstream does not have in that file already: whoever changes another
    /// line of it sends nothing new. Not asked of what a rule sees only the beginning of.
    fn unknown(&self, object: &Object, mut found: Vec<Finding>) -> Vec<Finding> {
        if found.is_empty() || object.path.is_empty() || object.size > LARGEST_COMPARED {
            return found;
        }
        let Some(new) = self.content(&object.id) else { return found };
        let secret = |finding: &Finding| {
            let secret = new.get(finding.span.start as usize..finding.span.end as usize)?;
            let compared = secret.len() >= SHORTEST_COMPARED && !is_beginning(rule(&finding.what));
            compared.then_some(secret)
        };
        // One that is there many times is looked for once.
        let (mut unknown, mut known) = (BTreeSet::new(), BTreeSet::new());
        for secret in found.iter().filter_map(secret) {
            if unknown.len() < MOST_COMPARED {
                unknown.insert(secret);
            }
        }
        for base in self.bases() {
            if unknown.is_empty() {
                break;
            }
            let Some(old) = self.content(&format!("{base}:{}", object.path)) else { continue };
            let is_there = |secret: &&[u8]| memmem::find(&old, secret).is_some();
            known.extend(unknown.extract_if(.., |secret| is_there(secret)));
        }
        found.retain(|finding| secret(finding).is_none_or(|secret| !known.contains(secret)));
        found
    }

    fn content(&self, blob: &str) -> Option<Vec<u8>> {
        let mut command = self.mirror.git.at(&self.mirror.folder, self.quarantine);
        command.args(["cat-file", "blob", blob]);
        run(&mut command, Vec::new(), LARGEST_COMPARED).ok().filter(|d| d.ok).map(|d| d.out)
    }

    fn bases(&self) -> &[String] {
        self.bases.get_or_init(|| {
            let mut command = self.mirror.git.at(&self.mirror.folder, self.quarantine);
            command.args(["rev-list", "--boundary"]).args(self.tips).args(["--not", "--all", "--"]);
            let done = run(&mut command, Vec::new(), LONGEST);
            let text = done.map(|done| String::from_utf8_lossy(&done.out).into_owned());
            let text = text.unwrap_or_default();
            let bases = text.lines().filter_map(|line| line.strip_prefix('-'));
            bases.take(MOST_BASES).map(str::to_owned).collect()
        })
    }

    /// Reads a blob once more, up to where something was found.
    fn line(&self, object: &Object, view: View, at: u64) -> Option<u64> {
        let mut reader = Reader::open(self.mirror, self.quarantine, &[object]).ok()?;
        reader.begin(object).ok()?;
        let (mut viewer, mut seen, mut line) = (Viewer::new(), 0, 1);
        let mut piece = vec![0; PIECE];
        while seen < at {
            let n = reader.read(&mut piece).ok().filter(|n| *n > 0)?;
            let fed = viewer.feed(&piece[..n], |of, bytes| {
                if of == view {
                    let left = usize::try_from(at.saturating_sub(seen)).unwrap_or(usize::MAX);
                    let before = &bytes[..bytes.len().min(left)];
                    line += before.iter().filter(|b| **b == b'\n').count() as u64;
                    seen += bytes.len() as u64;
                }
            });
            fed.ok()?;
        }
        Some(line)
    }

    /// A commit's or a tag's text.
    fn words(&self, object: &Object, bytes: &[u8]) -> Vec<Found> {
        let header = bytes.windows(2).position(|two| two == b"\n\n").unwrap_or(bytes.len());
        let what = if object.kind == Kind::Tag { "tag" } else { "commit" };
        let mut texts = vec![(View::Raw, bytes.to_vec())];
        for order in [Order::Little, Order::Big] {
            let mut text = Vec::new();
            Wide::new(order).feed(bytes, &mut text);
            texts.push((View::Wide(order), text));
        }
        let found = texts.iter().flat_map(|(view, text)| {
            self.meant(self.detector.scan(text)).into_iter().map(|finding| (*view, finding))
        });
        let told = found.map(|(view, finding)| {
            let start = usize::try_from(finding.span.start).unwrap_or(usize::MAX);
            let before = start.min(bytes.len());
            let message = bytes.get(header + 2..before).filter(|_| view == View::Raw);
            let (part, line) = match message {
                Some(before) => {
                    ("message", Some(1 + before.iter().filter(|b| **b == b'\n').count() as u64))
                }
                None if view == View::Raw => ("header", None),
                None => ("text", None),
            };
            Found {
                rule: rule(&finding.what).to_owned(),
                object: object.id.clone(),
                at: finding.span.start,
                part: view.clause(),
                place: format!("the {part} of {what} {}", short(&object.id)),
                line,
            }
        });
        told.collect()
    }

    /// The names in a folder (git's own format: mode, space, name, NUL, id), each by itself and after
    /// the folder's path: a secret may have a slash, and what is below it may be upstream's.
    fn tree(&self, object: &Object, bytes: &[u8]) -> io::Result<Vec<Found>> {
        let id_length = object.id.len() / 2;
        let mut names: Vec<&[u8]> = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == 0) {
            let name = &rest[..end];
            names.push(after(name, b' '));
            rest = rest.get(end + 1 + id_length..).unwrap_or_default();
        }
        let in_names = self.lines(&names);
        let mut told = self.names(object, &names, &in_names);
        if !object.path.is_empty() {
            told.extend(self.paths(object, &names, &in_names)?);
        }
        Ok(told)
    }

    fn names(&self, folder: &Object, names: &[&[u8]], found: &[InLine]) -> Vec<Found> {
        let shown = match folder.path.as_str() {
            "" => "the top folder".to_owned(),
            path => self.shown(path),
        };
        let told = found.iter().map(|InLine { line, start, finding }| {
            let name = String::from_utf8_lossy(names[*line]);
            let name = self.shown_but(&name, *start, Some(finding));
            Found {
                rule: rule(&finding.what).to_owned(),
                object: folder.id.clone(),
                at: finding.span.start,
                part: "names",
                place: format!("a file name in {shown}: {name}"),
                line: None,
            }
        });
        told.collect()
    }

    /// What is found in the paths of a folder's entries, and neither in their names nor in that of
    /// the folder: those are told as what they are.
    fn paths(
        &self,
        folder: &Object,
        names: &[&[u8]],
        in_names: &[InLine],
    ) -> io::Result<Vec<Found>> {
        let path = folder.path.as_bytes();
        let before = path.len() + 1;
        let size = names.iter().map(|name| (before + name.len()) as u64).sum::<u64>();
        if size > LARGEST_PART {
            return Err(io::Error::other(format!("the paths in {} are too long", folder.id)));
        }
        let paths: Vec<Vec<u8>> = names.iter().map(|name| [path, b"/", name].concat()).collect();
        let in_names: BTreeSet<_> = in_names.iter().map(|found| found.within(before)).collect();
        let in_path = self.lines(&[path]);
        let in_path: BTreeSet<_> = in_path.iter().map(|found| found.within(0)).collect();
        let found = self.lines(&paths);
        let is_new = |found: &&InLine| {
            let (line, start, end, what) = found.within(0);
            !in_path.contains(&(0, start, end, what))
                && !in_names.contains(&(line, start, end, what))
        };
        let told = found.iter().filter(is_new).map(|InLine { line, start, finding }| {
            let path = String::from_utf8_lossy(&paths[*line]);
            Found {
                rule: rule(&finding.what).to_owned(),
                object: folder.id.clone(),
                at: finding.span.start,
                part: "path",
                place: format!("the path {}", self.shown_but(&path, *start, Some(finding))),
                line: None,
            }
        });
        Ok(told.collect())
    }

    /// What is found in names or paths, which may hold line ends themselves.
    fn lines<L: Borrow<[u8]>>(&self, lines: &[L]) -> Vec<InLine> {
        let mut starts = Vec::with_capacity(lines.len());
        let mut text = Vec::new();
        for line in lines {
            starts.push(text.len() as u64);
            text.extend_from_slice(line.borrow());
            text.push(b'\n');
        }
        let found = self.meant(self.detector.scan(&text)).into_iter();
        let found = found.filter_map(|finding| {
            let after = starts.partition_point(|start| *start <= finding.span.start);
            let line = after.checked_sub(1)?;
            Some(InLine { line, start: starts[line], finding })
        });
        found.collect()
    }

    /// The commit that brings an object: the oldest of those that upstream does not have.
    pub(super) fn commit(&self, object: &str, kind: Kind) -> Option<String> {
        if kind == Kind::Commit {
            return Some(object.to_owned());
        }
        if kind == Kind::Tag {
            return None;
        }
        // A commit's own tree is in no other tree that could be found to change.
        let by_root = kind == Kind::Tree;
        let words = [format!("--find-object={object}")];
        let first = self.first(&["-m", "-t", "--no-renames", &words[0]], |_| true);
        first.or_else(|| {
            let own = |tree: &str| tree == object;
            if by_root { self.first(&[], own) } else { None }
        })
    }

    /// The oldest new commit that git's log picks by these words, and whose tree is a right one.
    fn first(&self, words: &[&str], right: impl Fn(&str) -> bool) -> Option<String> {
        let mut command = self.mirror.git.at(&self.mirror.folder, self.quarantine);
        command.args(["log", "--reverse", "--format=%H %T", "--no-patch"]).args(words);
        command.args(self.tips).args(["--not", "--all", "--"]);
        let done = run(&mut command, Vec::new(), LONGEST).ok()?;
        let text = String::from_utf8_lossy(&done.out);
        let mut commits = text.lines().filter_map(|line| line.split_once(' '));
        commits.find(|(_, tree)| right(tree)).map(|(commit, _)| commit.to_owned())
    }
}

/// A finding in one of many names.
struct InLine {
    /// In which, and where that begins.
    line: usize,
    start: u64,
    finding: Finding,
}

impl InLine {
    /// In which line, where in it, and what; of a line that stands after so many other bytes.
    fn within(&self, before: usize) -> (usize, u64, u64, &What) {
        let place = |offset: u64| (offset + before as u64).saturating_sub(self.start);
        let span = &self.finding.span;
        (self.line, place(span.start), place(span.end), &self.finding.what)
    }
}

pub(super) fn rule(what: &What) -> &str {
    match what {
        What::Value(name) | What::Rule(name) => name,
    }
}

/// An id as people write it.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether a rule may see only the beginning of what it finds.
fn is_beginning(rule: &str) -> bool {
    rule.starts_with("limit-") || rule.contains("private-key")
}

/// A finding as it is blotted out: below an encoding as plain text is, and to the end of the text
/// where more of the secret may follow.
fn whole(finding: &Finding) -> Finding {
    let end = if is_beginning(rule(&finding.what)) { u64::MAX } else { finding.span.end };
    Finding { what: finding.what.clone(), span: finding.span.start..end, layers: Vec::new() }
}

/// Shares the objects out so that each part has about as many bytes; each keeps the pack's order,
/// which is how git reads them fastest.
fn share_out(objects: &[Object], parts: usize) -> Vec<Vec<&Object>> {
    let mut shares: Vec<(u64, Vec<&Object>)> = vec![(0, Vec::new()); parts];
    for object in objects {
        if let Some(least) = shares.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            // What an object costs whatever its size.
            least.0 += object.size + 512;
            least.1.push(object);
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

/// What follows the first such byte.
fn after(bytes: &[u8], byte: u8) -> &[u8] {
    bytes.iter().position(|b| *b == byte).map_or(bytes, |at| &bytes[at + 1..])
}

/// Objects as `git cat-file --batch` gives them, one after the other.
struct Reader {
    child: Child,
    out: BufReader<ChildStdout>,
    /// Bytes of the object that are still to come.
    left: u64,
}

impl Reader {
    fn open(mirror: &Mirror, quarantine: Option<&Path>, objects: &[&Object]) -> io::Result<Self> {
        let mut command: Command = mirror.git.at(&mirror.folder, quarantine);
        command.args(["cat-file", "--batch", "--buffer"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut ids = Vec::with_capacity(objects.len() * 41);
        for object in objects {
            ids.extend_from_slice(object.id.as_bytes());
            ids.push(b'\n');
        }
        drop(feed(&mut child, ids));
        let out = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, out: BufReader::with_capacity(PIECE, out), left: 0 })
    }

    /// Reads the line before an object: its id, its kind, its size.
    fn begin(&mut self, object: &Object) -> io::Result<()> {
        let mut line = String::new();
        (&mut self.out).take(200).read_line(&mut line)?;
        let mut words = line.trim_end().split(' ');
        let same = words.next() == Some(object.id.as_str());
        let size = words.nth(1).and_then(|size| size.parse::<u64>().ok());
        if !same || size != Some(object.size) {
            return Err(io::Error::other(format!("git does not give {} out", object.id)));
        }
        self.left = object.size;
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    /// Reads the line end after an object.
    fn end(&mut self) -> io::Result<()> {
        self.skip()?;
        let mut newline = [0];
        self.out.read_exact(&mut newline)
    }

    fn close(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Read for Reader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(to.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.out.read(&mut to[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}
