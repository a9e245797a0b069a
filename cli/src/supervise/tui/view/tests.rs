//! The screen as text, at two sizes: `golden/supervise-tui/`. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color as Paint;

use super::super::model::{Bottle, Command, Event, Key, Shown};
use super::super::samples::{
    egress, image, key, looked, looked_undrawn, model, pending, session, shown, types,
};
use super::*;

const SIZES: [(u16, u16); 2] = [(80, 24), (120, 40)];

fn drawn(model: &mut Model, colour: bool, (wide, high): (u16, u16)) -> ratatui::buffer::Buffer {
    let mut terminal = Terminal::new(TestBackend::new(wide, high)).unwrap();
    terminal.draw(|frame| draw(model, colour, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &ratatui::buffer::Buffer) -> String {
    let wide = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(wide);
    let row = |cells: &[ratatui::buffer::Cell]| {
        let row: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", row.trim_end())
    };
    rows.map(row).collect()
}

/// The same picture as was reviewed, at each size.
fn is_as_reviewed(name: &str, model: &mut Model) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/supervise-tui");
    for size in SIZES {
        let found = text(&drawn(model, true, size));
        let path = folder.join(format!("{name}-{}x{}.txt", size.0, size.1));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &found).unwrap();
        }
        let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(reviewed == found, "{} differs; now it is\n{found}", path.display());
    }
}

fn busy() -> Model {
    let first = pending("dev-aaaaa", egress("/repos/me/*"), "the task needs to open an issue");
    let second = pending("review-bbbbb", image(), "a compiler");
    let mut model = model(vec![first, second]);
    model.update(Event::Bottles(Ok(vec![
        Bottle {
            session: session("dev-aaaaa"),
            state: "running".to_owned(),
            routes: vec![
                "api.github.com:443 read (GET, HEAD, OPTIONS, git fetch) on /repos/**".into(),
            ],
            refused: vec!["POST api.github.com:443/repos/me/issues ×3".into()],
        },
        Bottle {
            session: session("review-bbbbb"),
            state: "running".to_owned(),
            routes: Vec::new(),
            refused: Vec::new(),
        },
    ])));
    model
}

#[test]
fn nothing_waits() {
    let mut model = model(Vec::new());
    is_as_reviewed("empty", &mut model);
}

#[test]
fn one_is_looked_at_shown_and_asked_about() {
    let mut model = busy();
    is_as_reviewed("looking", &mut model);
    looked(&mut model, Ok(shown("one")));
    is_as_reviewed("shown", &mut model);
    types(&mut model, "A");
    is_as_reviewed("confirm", &mut model);
    key(&mut model, Key::Escape);
    types(&mut model, "ruse the mirror");
    is_as_reviewed("reject", &mut model);
    key(&mut model, Key::Escape);
    model.update(Event::Edited(Ok(Some(egress("/repos/me/x")))));
    looked(&mut model, Ok(shown("narrow")));
    is_as_reviewed("changed", &mut model);
    key(&mut model, Key::Escape);
    types(&mut model, "d");
    is_as_reviewed("details", &mut model);
    types(&mut model, "d?");
    is_as_reviewed("help", &mut model);
}

#[test]
fn a_failure_and_a_broken_one() {
    let mut model = Model::default();
    let broken =
        vec![(session("dev-aaaaa"), "\u{1b}c.json".to_owned(), "a \u{7} in it".to_owned())];
    let asked = vec![pending("dev-bbbbb", egress("/a"), "why")];
    model.update(Event::Found { pending: asked, broken });
    model.update(Event::Bottles(Err("the engine does not answer".to_owned())));
    looked(&mut model, Err("session dev-bbbbb is not as it was left: \u{9b}2J".to_owned()));
    is_as_reviewed("failed", &mut model);
    key(&mut model, Key::Down);
    is_as_reviewed("broken", &mut model);
}

/// What would act on a terminal, or take it over, wherever an agent can put it.
fn hostile() -> Model {
    let mut why = String::from(
        "\u{1b}[2J\u{1b}]0;owned\u{7}innocent \u{202e}drawkcab\u{2066}\u{200b} e\u{301}\u{301}\
         \u{301}\u{301}\u{301} 漢字\r\nGrants: same\n│ approve  a\n",
    );
    why.push_str(&"A".repeat(1 << 20));
    let asked = vec![pending("dev-aaaaa", egress("/\u{202e}x\u{1b}[31m"), &why)];
    let mut model = model(asked);
    looked(&mut model, Ok(shown("one")));
    model
}

#[test]
fn what_an_agent_says_is_only_ever_text() {
    let mut model = hostile();
    for details in [false, true] {
        if details {
            types(&mut model, "d");
        }
        for size in SIZES {
            let picture = drawn(&mut model, true, size);
            let text = text(&picture);
            let acts =
                |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2066}\u{200b}".contains(c);
            assert!(!text.contains(acts), "{text}");
            assert!(text.contains("\\u{1b}[2J\\u{1b}]0;owned\\u{7}innocent"), "{text}");
            // Nothing an agent says begins where our own lines begin.
            assert!(!text.contains("│Grants: same"), "{text}");
        }
    }
    key(&mut model, Key::Escape);
    is_as_reviewed("hostile", &mut model);
    // And the change is on the screen, whatever stands before it.
    let small = text(&drawn(&mut model, true, SIZES[0]));
    assert!(small.contains("+ POST on /repos/me/*"), "{small}");
    assert!(small.contains(&shown("one").digest.to_string()), "{small}");
}

#[test]
fn long_texts_can_be_scrolled_to_their_end_and_no_further() {
    let mut model = hostile();
    types(&mut model, "d");
    for _ in 0..2_000 {
        key(&mut model, Key::PageDown);
    }
    let end = text(&drawn(&mut model, true, SIZES[0]));
    assert!(end.contains("+new") && end.contains("digest sha256:"), "{end}");
    let at = model.scroll.details;
    key(&mut model, Key::Up);
    assert_eq!(model.scroll.details, at - 1, "no further than the end");
}

/// What goes on below the screen was not seen, and is not approved.
#[test]
fn what_is_below_the_screen_is_read_before_it_is_approved() {
    let mut model = busy();
    let long = format!("  + POST on /{}, /** at api.github.com:443", "x".repeat(900));
    let long = || Shown { change: vec!["Grants: widened".into(), long.clone()], ..shown("one") };
    looked_undrawn(&mut model, Ok(long()));
    let small = text(&drawn(&mut model, true, SIZES[0]));
    assert!(!small.contains("/**") && small.contains("lines more"), "{small}");
    types(&mut model, "a");
    assert_eq!(model.mode, Mode::Browse);
    assert!(model.message.contains("goes on below"), "{}", model.message);
    key(&mut model, Key::Tab);
    key(&mut model, Key::PageDown);
    let end = text(&drawn(&mut model, true, SIZES[0]));
    assert!(end.contains("/**"), "{end}");
    types(&mut model, "a");
    assert!(matches!(model.mode, Mode::Confirm { .. }), "{}", model.message);
    assert!(matches!(key(&mut model, Key::Char('y')), Some(Command::Approve { .. })));
    // Asked about as soon as it was changed: what was changed is read all the same.
    model.update(Event::Edited(Ok(Some(egress("/repos/me/x")))));
    looked_undrawn(&mut model, Ok(Shown { digest: shown("two").digest, ..long() }));
    drawn(&mut model, true, SIZES[0]);
    assert!(matches!(model.mode, Mode::Confirm { .. }));
    types(&mut model, "y");
    assert!(model.message.contains("goes on below"), "{}", model.message);
}

#[test]
fn colour_is_declined_with_no_color() {
    let mut model = busy();
    looked(&mut model, Ok(shown("one")));
    let coloured = |buffer: &ratatui::buffer::Buffer| {
        buffer.content.iter().any(|cell| cell.fg != Paint::Reset || cell.bg != Paint::Reset)
    };
    assert!(coloured(&drawn(&mut model, true, SIZES[0])));
    assert!(!coloured(&drawn(&mut model, false, SIZES[0])));
}

#[test]
fn any_size_is_survived() {
    let mut model = busy();
    looked(&mut model, Ok(shown("one")));
    for size in [(1, 1), (20, 5), (59, 24), (60, 16), (300, 16), (60, 100)] {
        for c in ["", "a", "nr", "xx"] {
            types(&mut model, c);
            drawn(&mut model, true, size);
        }
        key(&mut model, Key::Escape);
    }
    assert!(text(&drawn(&mut model, true, (59, 24))).contains("too small"));
}
