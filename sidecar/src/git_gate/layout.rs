//! Where the gate's own files lie: sockets, settings for git and ssh, and the programs these start.
//!
//! All of it is on a tmpfs that only the gate's user can enter; nothing an agent sends ends up in it.

use std::path::{Path, PathBuf};

use bottle_planner::words::Name;

use super::tools::Tool;
use crate::Places;

/// The folders of one gate.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) input: PathBuf,
    pub(super) run: PathBuf,
    pub(super) mirrors: PathBuf,
}

impl Layout {
    pub(super) fn of(places: &Places) -> Self {
        Self {
            input: places.input.clone(),
            run: places.run.clone(),
            mirrors: places.mirrors.clone(),
        }
    }

    /// The socket the tools ask through.
    pub(super) fn socket(&self) -> PathBuf {
        self.run.join("gate.sock")
    }

    /// The folder of the tools. For git it is the folder of hooks.
    pub(super) fn tools(&self) -> PathBuf {
        self.run.join("tools")
    }

    pub(super) fn tool(&self, tool: Tool) -> PathBuf {
        self.tools().join(tool.as_str())
    }

    /// The one configuration that git reads beside a mirror's own.
    pub(super) fn git_config(&self) -> PathBuf {
        self.run.join("gitconfig")
    }

    /// The certificate authorities that upstreams are verified with.
    pub(super) fn trust(&self) -> PathBuf {
        self.run.join("ca.pem")
    }

    /// The one configuration that ssh reads for a remote.
    pub(super) fn ssh_config(&self, remote: &Name) -> PathBuf {
        self.run.join(format!("{remote}.ssh"))
    }

    /// The one that it reads for the connection that is kept.
    pub(super) fn kept_config(&self, remote: &Name) -> PathBuf {
        self.run.join(format!("{remote}.kept"))
    }

    /// The socket of the ssh-agent that holds a remote's key, and nothing else.
    pub(super) fn agent(&self, remote: &Name) -> PathBuf {
        self.run.join(format!("{remote}.agent"))
    }

    /// The public half of that key, by which ssh picks it.
    pub(super) fn public_key(&self, remote: &Name) -> PathBuf {
        self.run.join(format!("{remote}.pub"))
    }

    /// The socket of the connection to a remote that is kept open.
    pub(super) fn connection(&self, remote: &Name) -> PathBuf {
        self.run.join(format!("{remote}.ssh.sock"))
    }

    /// Why a remote was not reached the last time: what ssh's proxy command says is one of several
    /// lines on git's standard error.
    pub(super) fn trouble(&self, remote: &Name) -> PathBuf {
        self.run.join(format!("{remote}.trouble"))
    }

    pub(super) fn mirror(&self, remote: &Name) -> PathBuf {
        self.mirrors.join(format!("{remote}.git"))
    }
}

/// The socket of the gate that a tool belongs to, by where the tool lies.
pub(super) fn socket_of_tool(tool: &Path) -> Option<PathBuf> {
    Some(tool.parent()?.parent()?.join("gate.sock"))
}
