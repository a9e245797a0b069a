//! Proposals and what they would change, as tests of the model and the view have them.

use bottle_planner::policy::{Access, HostPattern, Rule};
use bottle_planner::proposal::{Ask, Proposal};
use bottle_planner::words::{Digest, Identity, Name, Timestamp};

use super::model::{Event, Key, Model, Shown};
use crate::supervise::pending::Pending;

pub(super) fn session(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

/// POST on one path.
pub(super) fn egress(path: &str) -> Ask {
    Ask::Egress {
        host: HostPattern::new("api.github.com").unwrap(),
        port: 443,
        rule: Rule {
            methods: ["POST".to_owned()].into(),
            paths: vec![path.to_owned()],
            access: Access::All,
            auth: None,
        },
    }
}

pub(super) fn image() -> Ask {
    Ask::Image { dockerfile: "FROM debian\nRUN make\n".to_owned(), hosts: Default::default() }
}

pub(super) fn exception() -> Ask {
    Ask::PushException { remote: Name::new("web").unwrap(), fingerprint: "0123456789ab".to_owned() }
}

pub(super) fn pending(name: &str, ask: Ask, why: &str) -> Pending {
    let proposal = Proposal {
        protocol: 1,
        at: Timestamp::new("2026-01-31T12:00:00Z").unwrap(),
        ask,
        justification: why.to_owned(),
    };
    Pending { session: session(name), proposal }
}

/// What `word` stands for in a digest.
pub(super) fn shown(word: &str) -> Shown {
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    Shown {
        digest: Digest::of(word.as_bytes()),
        change: lines(
            "Grants: widened\n  + POST on /repos/me/* at api.github.com:443 with credential GH_PAT\n\
             Done while the agent runs:\n  ~ file:egress/in/routes.json (content_changed)",
        ),
        full: lines(
            "Grants: widened\n  + POST on /repos/me/* at api.github.com:443\nActions:\n  \
             ~ file:egress/in/routes.json\n\nThe plan's text:\n@@ -1,3 +1,3 @@\n-old\n+new",
        ),
        keeps: true,
        words: "GET on /repos/me/* at api.github.com:443".to_owned(),
    }
}

/// A model that these proposals wait in.
pub(super) fn model(pending: Vec<Pending>) -> Model {
    let mut model = Model::default();
    assert!(model.update(Event::Found { pending, broken: Vec::new() }).is_none());
    model
}

/// What was asked of the world comes back, and is on the screen to its end.
pub(super) fn looked(model: &mut Model, outcome: Result<Shown, String>) {
    looked_undrawn(model, outcome);
    model.shown_to_the_end();
}

/// What was asked of the world comes back.
pub(super) fn looked_undrawn(model: &mut Model, outcome: Result<Shown, String>) {
    let wanted = model.wants().unwrap();
    assert!(model.update(Event::Looked(Box::new(wanted), outcome)).is_none());
}

pub(super) fn key(model: &mut Model, key: Key) -> Option<super::model::Command> {
    model.update(Event::Key(key))
}

/// Types what has no answer.
pub(super) fn types(model: &mut Model, text: &str) {
    for c in text.chars() {
        assert!(key(model, Key::Char(c)).is_none(), "{c}");
    }
}
