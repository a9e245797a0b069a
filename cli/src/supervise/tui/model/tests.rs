//! Every key, and what moves while somebody decides.

use super::super::samples::{
    egress, exception, image, key, looked, model, pending, session, shown, types,
};
use super::*;

fn two() -> Model {
    let first = pending("dev-aaaaa", egress("/repos/me/*"), "the task needs it");
    let second = pending("dev-bbbbb", image(), "a compiler");
    model(vec![first, second])
}

fn again(model: &mut Model, pending: Vec<Pending>) -> Option<Command> {
    model.update(Event::Found { pending, broken: Vec::new() })
}

fn all(model: &Model) -> Vec<Pending> {
    let asked = model.rows.iter().filter_map(|row| match row {
        Row::Asked(item) => Some(item.pending.clone()),
        Row::Broken { .. } => None,
    });
    asked.collect()
}

#[test]
fn with_nothing_there_keys_do_nothing_but_say_so() {
    let mut model = model(Vec::new());
    assert!(model.wants().is_none());
    for c in ['a', 'A', 'm', 'r'] {
        types(&mut model, &c.to_string());
        assert_eq!(
            (&model.mode, model.message.as_str()),
            (&Mode::Browse, "nothing waits for an answer")
        );
    }
    types(&mut model, "dj");
    assert_eq!((model.mode.clone(), model.selected), (Mode::Browse, 0));
    assert!(matches!(key(&mut model, Key::Char('q')), Some(Command::Quit)));
    assert!(matches!(key(&mut model, Key::Interrupt), Some(Command::Quit)));
}

#[test]
fn what_is_selected_is_what_is_looked_at() {
    let mut model = two();
    assert_eq!(model.wants().unwrap().pending.session.as_str(), "dev-aaaaa");
    let first = model.wants().unwrap();
    key(&mut model, Key::Down);
    assert_eq!(model.wants().unwrap().pending.session.as_str(), "dev-bbbbb");
    // What comes late of another one is not shown for this one.
    model.update(Event::Looked(Box::new(first), Ok(shown("first"))));
    assert_eq!(model.look, Look::Looking);
    key(&mut model, Key::Down);
    assert_eq!(model.selected, 1);
    types(&mut model, "k");
    assert_eq!(model.selected, 0);
    types(&mut model, "j");
    key(&mut model, Key::Up);
    assert_eq!(model.selected, 0);
}

#[test]
fn an_approval_is_of_the_digest_on_the_screen() {
    let mut model = two();
    types(&mut model, "a");
    assert_eq!(model.mode, Mode::Browse, "nothing was shown yet");
    looked(&mut model, Ok(shown("one")));
    types(&mut model, "a");
    let digest = shown("one").digest;
    assert_eq!(model.mode, Mode::Confirm { digest: digest.clone(), always: false });
    // Anything but a clear yes is a no.
    for no in [Key::Enter, Key::Escape, Key::Char('n'), Key::Char('a'), Key::Down] {
        model.mode = Mode::Confirm { digest: digest.clone(), always: false };
        assert!(key(&mut model, no).is_none(), "{no:?}");
        assert_eq!(model.mode, Mode::Browse);
        assert_eq!(model.selected, 0);
    }
    types(&mut model, "a");
    match key(&mut model, Key::Char('y')) {
        Some(Command::Approve { pending, modified: None, seen, always: false }) => {
            assert_eq!((pending.session.as_str(), seen), ("dev-aaaaa", digest));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn keeping_it_is_asked_about_too_and_goes_with_network_access_alone() {
    let mut model = two();
    looked(&mut model, Ok(shown("one")));
    types(&mut model, "A");
    assert!(matches!(model.mode, Mode::Confirm { always: true, .. }));
    let command = key(&mut model, Key::Char('y'));
    assert!(matches!(command, Some(Command::Approve { always: true, .. })));
    key(&mut model, Key::Down);
    looked(&mut model, Ok(Shown { keeps: false, ..shown("two") }));
    types(&mut model, "A");
    assert_eq!(model.mode, Mode::Browse);
    assert!(model.message.contains("only network access"), "{}", model.message);
}

#[test]
fn what_moved_is_shown_again_before_anybody_says_yes() {
    // While it is asked about.
    let mut model = two();
    looked(&mut model, Ok(shown("one")));
    types(&mut model, "a");
    let mut others = all(&model);
    others.pop();
    again(&mut model, others);
    looked(&mut model, Ok(shown("two")));
    assert_eq!(model.mode, Mode::Browse);
    assert!(model.message.contains("something moved"), "{}", model.message);
    assert_eq!(model.look, Look::Seen(shown("two")));
    // The same again does not disturb.
    types(&mut model, "a");
    let wanted = model.wants().unwrap();
    model.update(Event::Looked(Box::new(wanted), Ok(shown("two"))));
    assert!(matches!(model.mode, Mode::Confirm { .. }));
    // Between the yes and the approval.
    assert!(key(&mut model, Key::Char('y')).is_some());
    model.update(Event::Decided(Err("expected sha256:1, found sha256:2".to_owned())));
    assert_eq!(model.look, Look::Looking);
    looked(&mut model, Ok(shown("three")));
    assert!(model.message.contains("something moved"), "{}", model.message);
    assert!(model.message.contains("expected sha256:1"), "{}", model.message);
    assert_eq!((&model.mode, &model.look), (&Mode::Browse, &Look::Seen(shown("three"))));
}

#[test]
fn what_failed_otherwise_keeps_its_reason() {
    let mut model = two();
    looked(&mut model, Ok(shown("one")));
    types(&mut model, "a");
    key(&mut model, Key::Char('y'));
    model.update(Event::Decided(Err("the engine \u{1b}[2Jis gone".to_owned())));
    looked(&mut model, Ok(shown("one")));
    assert_eq!(model.message, "the engine \\u{1b}[2Jis gone");
}

#[test]
fn what_cannot_be_approved_says_why_and_can_be_rejected() {
    let mut model = two();
    looked(&mut model, Err("the gate has refused\nno push".to_owned()));
    assert_eq!(model.look, Look::Failed(vec!["the gate has refused".into(), "no push".into()]));
    types(&mut model, "a");
    assert_eq!(model.mode, Mode::Browse);
    types(&mut model, "rno such push");
    let command = key(&mut model, Key::Enter);
    assert!(matches!(command, Some(Command::Reject { notes, .. }) if notes == "no such push"));
}

#[test]
fn notes_are_typed_and_taken_back() {
    let mut model = two();
    types(&mut model, "r");
    // Letters that are keys elsewhere are letters here.
    types(&mut model, "q aAdé");
    key(&mut model, Key::Backspace);
    assert_eq!(model.mode, Mode::Notes("q aAd".to_owned()));
    key(&mut model, Key::Escape);
    assert_eq!(model.mode, Mode::Browse);
    types(&mut model, "r");
    types(&mut model, &"x".repeat(LONGEST_NOTES + 9));
    match key(&mut model, Key::Enter) {
        Some(Command::Reject { notes, pending }) => {
            assert_eq!((notes.len(), pending.session.as_str()), (LONGEST_NOTES, "dev-aaaaa"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_changed_form_is_shown_and_then_asked_about() {
    let mut model = two();
    looked(&mut model, Ok(shown("one")));
    assert!(
        matches!(key(&mut model, Key::Char('m')), Some(Command::Edit(ask)) if ask == egress("/repos/me/*"))
    );
    model.update(Event::Edited(Ok(Some(egress("/repos/me/x")))));
    assert_eq!(model.look, Look::Looking);
    assert_eq!(model.wants().unwrap().ask, egress("/repos/me/x"));
    looked(&mut model, Ok(shown("narrow")));
    assert!(
        matches!(&model.mode, Mode::Confirm { digest, .. } if *digest == shown("narrow").digest)
    );
    match key(&mut model, Key::Char('y')) {
        Some(Command::Approve { modified: Some(ask), seen, .. }) => {
            assert_eq!((ask, seen), (egress("/repos/me/x"), shown("narrow").digest));
        }
        other => panic!("{other:?}"),
    }
    // Changed further from where it is; Esc goes back to what was asked.
    assert!(
        matches!(key(&mut model, Key::Char('m')), Some(Command::Edit(ask)) if ask == egress("/repos/me/x"))
    );
    model.update(Event::Edited(Ok(None)));
    key(&mut model, Key::Escape);
    assert_eq!(model.wants().unwrap().ask, egress("/repos/me/*"));
    // Edited to what was asked, it is approved as it was asked.
    model.update(Event::Edited(Ok(Some(egress("/repos/me/*")))));
    assert!(model.modified.is_none());
    model.update(Event::Edited(Err("what was written is no rule".to_owned())));
    assert_eq!(model.message, "what was written is no rule");
}

#[test]
fn a_push_exception_has_no_other_form() {
    let mut model = model(vec![pending("dev-aaaaa", exception(), "")]);
    types(&mut model, "m");
    assert!(model.message.contains("not modified"));
}

#[test]
fn broken_ones_are_listed_and_not_answered() {
    let mut model = Model::default();
    let broken = vec![(session("dev-aaaaa"), "x\u{1b}.json".to_owned(), "no JSON".to_owned())];
    let asked = vec![pending("dev-bbbbb", egress("/a"), "")];
    assert!(model.update(Event::Found { pending: asked, broken }).is_none());
    assert_eq!(model.counts(), (1, 1));
    key(&mut model, Key::Down);
    assert!(model.wants().is_none());
    for c in ['a', 'A', 'm', 'r'] {
        types(&mut model, &c.to_string());
        assert_eq!(model.mode, Mode::Browse);
        assert!(model.message.contains("that is no request"), "{}", model.message);
    }
    assert!(matches!(&model.rows[1], Row::Broken { name, .. } if name == "x\\u{1b}.json"));
}

#[test]
fn the_bell_rings_once_for_each_new_one() {
    let mut model = two();
    let mut now = all(&model);
    now.push(pending("dev-ccccc", egress("/\u{202e}x"), ""));
    match again(&mut model, now.clone()) {
        Some(Command::Ring(news)) => {
            assert_eq!(news.len(), 1);
            assert_eq!(news[0].0.as_str(), "dev-ccccc");
            assert!(news[0].1.contains("\\u{202e}"), "{}", news[0].1);
        }
        other => panic!("{other:?}"),
    }
    assert!(again(&mut model, now.clone()).is_none());
    now.remove(0);
    assert!(again(&mut model, now).is_none());
}

#[test]
fn the_selection_stays_on_the_same_one() {
    let mut model = two();
    let mut now = all(&model);
    key(&mut model, Key::Down);
    looked(&mut model, Ok(shown("two")));
    types(&mut model, "rbecau");
    now.insert(0, pending("dev-00000", egress("/first"), ""));
    again(&mut model, now.clone());
    assert_eq!(model.wants().unwrap().pending.session.as_str(), "dev-bbbbb");
    assert_eq!(model.mode, Mode::Notes("becau".to_owned()), "typing goes on");
    // Answered elsewhere: no other one gets the notes.
    now.pop();
    again(&mut model, now);
    assert_eq!((&model.mode, model.selected), (&Mode::Gone, 1));
    assert!(model.message.contains("does not wait any more"), "{}", model.message);
    // Whoever types on answers nothing.
    looked(&mut model, Ok(shown("another")));
    types(&mut model, "se it may say q");
    assert!(key(&mut model, Key::Enter).is_none());
    assert_eq!(model.mode, Mode::Gone);
    key(&mut model, Key::Escape);
    assert_eq!(model.mode, Mode::Browse);
    assert!(model.message.is_empty(), "{}", model.message);
}

#[test]
fn an_edit_after_it_was_shown_is_another_proposal() {
    let mut model = model(vec![pending("dev-aaaaa", egress("/a"), "why")]);
    looked(&mut model, Ok(shown("one")));
    types(&mut model, "a");
    again(&mut model, vec![pending("dev-aaaaa", egress("/a"), "why, said otherwise")]);
    assert_eq!((&model.mode, &model.look), (&Mode::Gone, &Look::Looking));
}

#[test]
fn panes_help_and_details() {
    let mut model = two();
    let arrows = |model: &Model| (model.scroll.change, model.scroll.bottles, model.selected);
    // Another one is read from its beginning.
    for (pane, now) in
        [(Pane::Change, (1, 0, 0)), (Pane::Bottles, (1, 1, 0)), (Pane::Requests, (0, 1, 1))]
    {
        key(&mut model, Key::Tab);
        assert_eq!(model.pane, pane);
        key(&mut model, Key::Down);
        assert_eq!(arrows(&model), now);
    }
    types(&mut model, "?");
    assert_eq!(model.mode, Mode::Help);
    types(&mut model, "q");
    assert_eq!(model.mode, Mode::Browse);
    for open in [Key::Char('d'), Key::Enter] {
        key(&mut model, open);
        assert_eq!(model.mode, Mode::Details);
        key(&mut model, Key::PageDown);
        key(&mut model, Key::Up);
        assert_eq!(model.scroll.details, PAGE - 1);
        key(&mut model, Key::Home);
        assert_eq!(model.scroll.details, 0);
        key(&mut model, Key::Escape);
        assert_eq!(model.mode, Mode::Browse);
    }
    // Answered from there too.
    looked(&mut model, Ok(shown("two")));
    types(&mut model, "da");
    assert!(matches!(model.mode, Mode::Confirm { .. }));
    key(&mut model, Key::Escape);
    types(&mut model, "dr");
    assert_eq!(model.mode, Mode::Notes(String::new()));
}

#[test]
fn news_is_told() {
    let mut model = two();
    assert!(model.update(Event::Bottles(Ok(Vec::new()))).is_none());
    assert_eq!(model.bottles, Some(Ok(Vec::new())));
    model.update(Event::Decided(Ok("3f is approved".to_owned())));
    assert_eq!(model.message, "3f is approved");
    model.update(Event::Told("cannot read".to_owned()));
    assert_eq!(model.message, "cannot read");
}
