use crate::kv::command::Command;
use crate::kv::state_machine::tests::{
    TINY, apply, batch, cas, put, remove, restore, snapshot, step, update, write,
};
use crate::kv::{Outcome, StateMachine};
use crate::types::Payload;

use super::*;

const CLIENT: ClientId = ClientId(0xC11E_4700_0000_0000_0000_0000_0000_0001);

fn implicit(sequence: u64) -> Identity {
    Identity::Implicit {
        client: CLIENT,
        sequence,
    }
}

fn session(session: u64, sequence: u64, acked_below: u64) -> Identity {
    Identity::Session {
        session,
        sequence,
        acked_below,
    }
}

fn open(state: &mut StateMachine) -> u64 {
    let command = Command::OpenSession { client: CLIENT };
    match step(state, &Payload::Command(command.encode())) {
        Outcome::SessionOpened(id) => {
            assert_eq!(
                id,
                state.applied().index.0,
                "its id is its place in the log"
            );
            id
        }
        other => panic!("{other:?}"),
    }
}

fn noops(state: &mut StateMachine, count: u64) {
    for _ in 0..count {
        step(state, &Payload::Noop);
    }
}

#[test]
fn a_repeated_write_is_applied_once_and_answered_as_the_first_time() {
    let mut state = StateMachine::new(TINY);
    let first = write(implicit(1), put("k", "v"));
    let second = write(implicit(2), put("k", "w"));
    let third = write(implicit(3), remove("k"));
    assert_eq!(step(&mut state, &first), Outcome::Created);
    assert_eq!(step(&mut state, &second), Outcome::KeyExists);
    assert_eq!(step(&mut state, &third), Outcome::Removed);
    for _ in 0..2 {
        assert_eq!(step(&mut state, &first), Outcome::Created);
        assert_eq!(state.get_ref(b"k"), None, "not applied again");
        assert_eq!(step(&mut state, &second), Outcome::KeyExists);
        assert_eq!(step(&mut state, &third), Outcome::Removed);
        state = restore(&snapshot(&mut state, 64), TINY);
    }
    let other = Identity::Implicit {
        client: ClientId(2),
        sequence: 1,
    };
    assert_eq!(
        step(&mut state, &write(other, put("k", "o"))),
        Outcome::Created
    );
}

#[test]
fn repeated_compare_and_sets_and_batches_are_answered_as_the_first_time() {
    let mut state = StateMachine::new(TINY);
    let id = open(&mut state);
    for identity in [|n, _| implicit(n), |n, id| session(id, n, 0)] {
        apply(&mut state, update("k", "a"));
        let (a, b) = (Some("a"), Some("b"));
        let change = write(identity(1, id), cas("k", a, b));
        let late = write(identity(2, id), cas("k", a, None));
        let failing = batch(identity(3, id), &[put("l", ""), put("k", "")]);
        let both = batch(identity(4, id), &[put("l", ""), cas("k", b, a)]);
        let expected = [
            (&change, Outcome::Created),
            (&late, Outcome::Mismatch),
            (&failing, Outcome::BatchFailed(1)),
            (&both, Outcome::Created),
        ];
        for (payload, outcome) in expected {
            assert_eq!(step(&mut state, payload), outcome);
        }
        // Each of them would come to something else now.
        apply(&mut state, update("k", "c"));
        apply(&mut state, remove("l"));
        state = restore(&snapshot(&mut state, 64), TINY);
        for (payload, outcome) in expected {
            assert_eq!(step(&mut state, payload), outcome);
        }
        assert_eq!(state.get_ref(b"k"), Some(&b"c"[..]));
        assert_eq!(state.get_ref(b"l"), None);
    }
}

#[test]
fn an_implicit_session_is_forgotten_by_log_position_alone() {
    let remembered = |entries_between: u64| {
        let mut state = StateMachine::new(TINY);
        let payload = write(implicit(1), update("k", "old"));
        step(&mut state, &payload);
        apply(&mut state, update("k", "new"));
        noops(&mut state, entries_between);
        step(&mut state, &payload);
        state.get_ref(b"k") == Some(&b"new"[..])
    };
    // The first stands at 1, the repetition at 3 + entries_between.
    assert!(remembered(TINY.implicit_window - 3));
    assert!(!remembered(TINY.implicit_window - 2));
}

#[test]
fn a_repetition_does_not_keep_an_implicit_session_alive() {
    let mut state = StateMachine::new(TINY);
    let payload = write(implicit(1), put("k", "v"));
    step(&mut state, &payload);
    noops(&mut state, TINY.implicit_window - 2);
    assert_eq!(step(&mut state, &payload), Outcome::Created);
    assert_eq!(state.implicit_session_count(), 1);
    assert_eq!(
        step(&mut state, &payload),
        Outcome::KeyExists,
        "applied anew"
    );
}

#[test]
fn an_explicit_session_answers_its_window_in_any_order() {
    let mut state = StateMachine::new(TINY);
    let id = open(&mut state);
    let third = write(session(id, 3, 0), put("c", "3"));
    let first = write(session(id, 1, 0), put("a", "1"));
    assert_eq!(step(&mut state, &third), Outcome::Created);
    assert_eq!(step(&mut state, &first), Outcome::Created);
    apply(&mut state, remove("c"));
    let mut state = restore(&snapshot(&mut state, 64), TINY);
    assert_eq!(step(&mut state, &third), Outcome::Created);
    assert_eq!(state.get_ref(b"c"), None, "not applied again");
    let second = write(session(id, 2, 2), put("a", "2"));
    assert_eq!(step(&mut state, &second), Outcome::KeyExists);
    assert_eq!(step(&mut state, &first), Outcome::SessionStale);
    assert_eq!(step(&mut state, &second), Outcome::KeyExists);
}

#[test]
fn a_write_below_what_was_acknowledged_is_never_applied() {
    let mut state = StateMachine::new(TINY);
    let id = open(&mut state);
    step(&mut state, &write(session(id, 9, 9), put("a", "1")));
    for sequence in 0..9 {
        let late = write(session(id, sequence, 0), put("b", "late"));
        assert_eq!(step(&mut state, &late), Outcome::SessionStale);
    }
    let itself = write(session(id, 10, u64::MAX), put("b", "late"));
    assert_eq!(step(&mut state, &itself), Outcome::SessionStale);
    assert_eq!(state.get_ref(b"b"), None);
}

#[test]
fn a_write_beyond_the_window_is_refused_until_answers_are_acknowledged() {
    let mut state = StateMachine::new(TINY);
    let id = open(&mut state);
    let beyond = TINY.window as u64 + 1;
    let refused = write(session(id, beyond, 1), put("k", "v"));
    assert_eq!(step(&mut state, &refused), Outcome::SessionWindowFull);
    assert_eq!(state.get_ref(b"k"), None);
    let far = write(session(id, u64::MAX, 1), put("k", "v"));
    assert_eq!(step(&mut state, &far), Outcome::SessionWindowFull);
    let taken = write(session(id, beyond, 2), put("k", "v"));
    assert_eq!(step(&mut state, &taken), Outcome::Created);
}

#[test]
fn an_idle_session_expires_by_log_position_and_nothing_of_it_is_applied() {
    let mut state = StateMachine::new(TINY);
    let id = open(&mut state);
    noops(&mut state, TINY.idle_entries - 1);
    let payload = write(session(id, 1, 0), put("k", "v"));
    assert_eq!(
        step(&mut state.clone_by_snapshot(), &payload),
        Outcome::SessionExpired
    );

    let mut state = StateMachine::new(TINY);
    let id = open(&mut state);
    noops(&mut state, TINY.idle_entries - 2);
    assert_eq!(
        step(&mut state, &payload),
        Outcome::Created,
        "one entry earlier"
    );
    noops(&mut state, TINY.idle_entries - 2);
    assert_eq!(
        step(&mut state, &payload),
        Outcome::Created,
        "use keeps it alive"
    );
    noops(&mut state, TINY.idle_entries - 1);
    assert_eq!(step(&mut state, &payload), Outcome::SessionExpired);
    let never = write(session(id + 1, 1, 0), put("new", "v"));
    assert_eq!(step(&mut state, &never), Outcome::SessionExpired);
    assert_eq!((state.get_ref(b"new"), state.session_count()), (None, 0));
}

impl StateMachine {
    fn clone_by_snapshot(&mut self) -> StateMachine {
        restore(&snapshot(self, 100), TINY)
    }
}

#[test]
fn the_session_that_was_idle_for_longest_makes_room() {
    let mut state = StateMachine::new(TINY);
    let ids: Vec<u64> = (0..TINY.sessions_max).map(|_| open(&mut state)).collect();
    step(&mut state, &write(session(ids[0], 1, 0), put("a", "")));
    open(&mut state);
    assert_eq!(state.session_count(), TINY.sessions_max);
    let outcome =
        |state: &mut StateMachine, id| step(state, &write(session(id, 2, 0), update("a", "")));
    assert_eq!(outcome(&mut state, ids[1]), Outcome::SessionExpired);
    assert_eq!(outcome(&mut state, ids[0]), Outcome::Created);
    assert_eq!(outcome(&mut state, ids[2]), Outcome::Created);
}

#[test]
fn a_record_of_an_implicit_session_takes_32_bytes() {
    assert_eq!(size_of::<ImplicitRecord>(), 32);
}
