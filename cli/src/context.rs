//! What every command is given: the environment and the two streams.

use std::path::PathBuf;

use bottle_executor::state::Roots;

use crate::args::ManifestArgs;
use crate::env::Env;
use crate::failure::Failure;
use crate::output::Printer;

/// What every command is given.
pub struct Context {
    /// The environment.
    pub env: Env,
    /// Standard output and standard error.
    pub printer: Printer,
}

impl Context {
    /// Where things lie on this host. The manifest's folder follows the flags.
    pub fn roots(&self, manifest: &ManifestArgs) -> Result<Roots, Failure> {
        let root = self.env.state_root()?;
        let home = self.env.home()?;
        let folder = match (&manifest.manifest, &manifest.manifest_dir) {
            (Some(file), _) => absolute(file)?.parent().map(PathBuf::from).unwrap_or_default(),
            (None, Some(folder)) => absolute(folder)?,
            (None, None) => root.clone(),
        };
        let skills = home.join(".claude/skills");
        Ok(Roots { root, home, skills, manifest: folder })
    }
}

/// A path from the command line, absolute, nothing in it resolved.
pub fn absolute(path: &std::path::Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|e| Failure::error(format!("cannot make {} absolute", path.display())).because(&e))
}
