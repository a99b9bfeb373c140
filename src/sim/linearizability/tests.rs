//! The checker is judged by histories whose verdict is known: written by hand, made from a
//! real sequential register, or judged by a search that tries everything.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Writes a history down, one operation a line: `client from..to what`, in which `..?` stands
/// for no answer, as in `1 10..20 put a -> created` and `2 15..? update b`.
fn history(text: &str) -> Vec<Operation> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .map(line)
        .collect()
}

fn line(text: &str) -> Operation {
    let (call, answer) = match text.split_once(" -> ") {
        Some((call, answer)) => (call, Some(answer)),
        None => (text, None),
    };
    let words: Vec<&str> = call.split_whitespace().collect();
    let (from, to) = words[1].split_once("..").expect("from..to");
    let action = match words[2] {
        "put" => Action::Put(bytes(words[3])),
        "update" => Action::Update(bytes(words[3])),
        "remove" => Action::Remove,
        "get" => Action::Get,
        other => panic!("no such action: {other}"),
    };
    let outcome = answer.map(|answer| match answer {
        "created" => Outcome::Created,
        "exists" => Outcome::KeyExists,
        "removed" => Outcome::Removed,
        "absent" => Outcome::NotFound,
        value => Outcome::Found(bytes(value)),
    });
    Operation {
        client: words[0].parse().expect("a number"),
        key: bytes("k"),
        action,
        invoked_ns: from.parse().expect("a number"),
        returned: outcome.map(|o| (to.parse().expect("a number"), o)),
    }
}

fn accepted(text: &str) {
    check(&history(text), STEPS_MAX).assert_linearizable();
}

/// Asserts that there is no order, and that the violation ends with this line of `text`.
fn rejected(text: &str, culprit: &str) {
    let Verdict::NotLinearizable(violation) = check(&history(text), STEPS_MAX) else {
        panic!("a bad history was accepted");
    };
    assert_eq!(
        violation.prefix[violation.culprit],
        line(culprit),
        "{violation}"
    );
}

#[test]
fn an_empty_history_is_accepted() {
    accepted("");
}

#[test]
fn operations_one_after_the_other_are_accepted() {
    accepted(
        "1 0..1 get -> absent
         1 2..3 put a -> created
         1 4..5 put b -> exists
         1 6..7 get -> a
         1 8..9 update c -> created
         1 10..11 get -> c
         1 12..13 remove -> removed
         1 14..15 remove -> absent
         1 16..17 get -> absent
         1 18..19 put d -> created",
    );
}

#[test]
fn concurrent_operations_may_take_effect_in_any_order() {
    accepted(
        "1 0..100 update a -> created
         2 0..100 update b -> created
         3 10..20 get -> b
         3 30..40 get -> a",
    );
    accepted(
        "1 0..100 put a -> exists
         2 0..100 put b -> created
         3 0..100 remove -> absent
         4 0..100 get -> b",
    );
}

#[test]
fn events_at_the_same_moment_count_as_concurrent() {
    accepted(
        "1 0..10 put a -> created
         2 10..20 get -> absent",
    );
}

#[test]
fn a_stale_read_is_rejected() {
    rejected(
        "1 0..1 update a -> created
         1 2..3 update b -> created
         2 4..5 get -> a
         1 6..7 update c -> created",
        "2 4..5 get -> a",
    );
}

#[test]
fn a_lost_write_is_rejected() {
    rejected(
        "1 0..1 put a -> created
         2 2..3 get -> absent",
        "2 2..3 get -> absent",
    );
    rejected(
        "1 0..1 put a -> created
         2 2..3 put b -> created",
        "2 2..3 put b -> created",
    );
}

#[test]
fn a_put_that_was_applied_twice_is_rejected() {
    // The retry of client 1 brings its value back after a remove.
    rejected(
        "1 0..50 put a -> created
         2 10..20 get -> a
         2 21..30 remove -> removed
         2 31..40 get -> a",
        "2 31..40 get -> a",
    );
    // Or it is answered that its own value is in the way.
    rejected(
        "1 0..50 put a -> exists
         2 51..60 get -> a",
        "1 0..50 put a -> exists",
    );
}

#[test]
fn a_value_that_was_never_written_is_rejected() {
    rejected(
        "1 0..1 put a -> created
         2 2..3 get -> z",
        "2 2..3 get -> z",
    );
}

#[test]
fn a_value_that_comes_back_after_it_was_overwritten_is_rejected() {
    rejected(
        "1 0..10 update a -> created
         2 11..20 update b -> created
         3 21..30 get -> b
         3 31..40 get -> a",
        "3 31..40 get -> a",
    );
}

#[test]
fn reads_of_two_clients_that_go_back_are_rejected() {
    rejected(
        "1 0..1 put a -> created
         1 10..100 update b -> created
         2 20..30 get -> b
         3 40..50 get -> a",
        "3 40..50 get -> a",
    );
}

#[test]
fn a_write_without_an_answer_may_take_effect_at_any_time_or_never() {
    accepted(
        "1 0..1 put a -> created
         1 2..? update b
         2 3..4 get -> a
         2 1000..1001 get -> b",
    );
    accepted(
        "1 0..1 put a -> created
         1 2..? update b
         2 1000..1001 get -> a",
    );
    accepted(
        "1 0..1 put a -> created
         1 2..? remove
         3 3..? put c
         2 4..5 get -> a
         2 6..7 get -> c",
    );
    accepted(
        "1 0..1 put a -> created
         3 3..? remove
         2 4..5 get -> a
         2 6..7 get -> absent",
    );
}

#[test]
fn a_write_without_an_answer_that_was_seen_and_then_not_is_rejected() {
    rejected(
        "1 0..1 put a -> created
         1 2..? update b
         2 3..4 get -> b
         2 5..6 get -> a",
        "2 5..6 get -> a",
    );
    rejected(
        "1 0..1 put a -> created
         3 3..? remove
         2 4..5 get -> absent
         2 6..7 get -> a",
        "2 6..7 get -> a",
    );
}

#[test]
fn a_write_without_an_answer_takes_effect_only_once() {
    rejected(
        "1 0..? put a
         2 1..2 get -> a
         2 3..4 remove -> removed
         2 5..6 get -> a",
        "2 5..6 get -> a",
    );
}

#[test]
fn a_write_does_not_take_effect_before_its_invocation() {
    rejected(
        "2 1..2 get -> a
         1 3..? put a",
        "2 1..2 get -> a",
    );
}

#[test]
fn a_remove_that_did_not_happen_is_rejected() {
    rejected(
        "1 0..1 put a -> created
         1 2..3 remove -> removed
         2 4..5 get -> a",
        "2 4..5 get -> a",
    );
    rejected(
        "1 0..1 put a -> created
         1 2..3 remove -> absent",
        "1 2..3 remove -> absent",
    );
    rejected("1 2..3 remove -> removed", "1 2..3 remove -> removed");
}

#[test]
fn keys_do_not_influence_each_other() {
    let mut operations = history(
        "1 0..1 put a -> created
         2 2..3 get -> absent",
    );
    operations[1].key = bytes("other");
    check(&operations, STEPS_MAX).assert_linearizable();
}

#[test]
fn the_report_names_the_key_and_the_operation_that_cannot_be_placed() {
    let verdict = check(
        &history(
            "1 1000000..2000000 put a -> created
             2 2500000..? update b
             3 3000000..4000000 get -> absent
             3 5000000..6000000 get -> a",
        ),
        STEPS_MAX,
    );
    assert_eq!(
        verdict.to_string(),
        "not linearizable: key \"k\": no order explains its first 3 operations, up to       4.000 ms\n\
         \x20   client 1   [      1.000 ms ..       2.000 ms]  put \"a\" -> created\n\
         \x20   client 2   [      2.500 ms ..              ?]  update \"b\" -> no answer\n\
         \x20 > client 3   [      3.000 ms ..       4.000 ms]  get -> not found\n"
    );
}

#[test]
fn too_few_steps_decide_nothing() {
    let operations = history(
        "1 0..1 put a -> created
         1 2..3 update b -> created",
    );
    let verdict = check(&operations, 1);
    assert!(matches!(verdict, Verdict::Unknown { steps: 1, .. }));
    assert!(verdict.to_string().contains("undecided"));
}

#[test]
#[should_panic(expected = "does not belong")]
fn an_answer_to_another_question_is_a_defect_of_the_recorder() {
    let _ = check(&history("1 0..1 get -> created"), STEPS_MAX);
}

/// A small generator of numbers, so that a history is named by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What a real store, used by concurrent clients, could have answered.
///
/// Each client works through its operations one after the other; the moment of effect is drawn
/// between invocation and return, and effects are carried out in that order on a map.
fn truthful_history(seed: u64, clients: u64, keys: u64, operations: u64) -> Vec<Operation> {
    let mut random = Random(seed);
    // (effect, place) of each operation, to be carried out by effect.
    let mut effects = Vec::new();
    let mut history = Vec::new();
    let mut free_at = vec![0; clients as usize];
    for number in 0..operations {
        let client = random.below(clients);
        let invoked_ns = free_at[client as usize] + 1 + random.below(50);
        let effect = invoked_ns + random.below(200);
        let returned_ns = effect + random.below(200);
        free_at[client as usize] = returned_ns;
        let value = Bytes::from(format!("v{number}"));
        let action = match random.below(10) {
            0..2 => Action::Put(value),
            2..5 => Action::Update(value),
            5 => Action::Remove,
            _ => Action::Get,
        };
        // Some never get their answer, and half of these never take effect.
        let lost = random.below(50) == 0;
        if lost {
            // Such a client would be a new one, and its operation may take effect much later.
            free_at[client as usize] = invoked_ns + 2_000;
        }
        let effect = if lost {
            invoked_ns + random.below(5_000)
        } else {
            effect
        };
        if !(lost && random.below(2) == 0) {
            effects.push((effect, history.len()));
        }
        history.push(Operation {
            client,
            key: Bytes::from(format!("k{}", random.below(keys))),
            action,
            invoked_ns,
            returned: (!lost).then_some((returned_ns, Outcome::NotFound)),
        });
    }
    effects.sort_unstable();
    let mut store: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    for (_, at) in effects {
        let Operation {
            key,
            action,
            returned,
            ..
        } = &mut history[at];
        let answer = apply(&mut store, key, action);
        if let Some((_, outcome)) = returned {
            *outcome = answer;
        }
    }
    history
}

fn apply(store: &mut BTreeMap<Bytes, Bytes>, key: &Bytes, action: &Action) -> Outcome {
    match action {
        Action::Put(_) if store.contains_key(key) => Outcome::KeyExists,
        Action::Put(value) | Action::Update(value) => {
            store.insert(key.clone(), value.clone());
            Outcome::Created
        }
        Action::Remove => match store.remove(key) {
            Some(_) => Outcome::Removed,
            None => Outcome::NotFound,
        },
        Action::Get => match store.get(key) {
            Some(value) => Outcome::Found(value.clone()),
            None => Outcome::NotFound,
        },
    }
}

/// Tries every order, and every choice of which unanswered operations take effect.
fn some_order_exists(history: &[Operation], placed: &mut Vec<usize>) -> bool {
    let left = || (0..history.len()).filter(|i| !placed.contains(i));
    let answers = |i: &usize| history[*i].returned.as_ref().map(|(at, _)| *at);
    let Some(first_return) = left().filter_map(|i| answers(&i)).min() else {
        return true;
    };
    let candidates: Vec<usize> = left()
        .filter(|i| history[*i].invoked_ns <= first_return)
        .collect();
    for next in candidates {
        placed.push(next);
        let mut store = BTreeMap::new();
        let fits = placed.iter().all(|i| {
            let operation = &history[*i];
            let answer = apply(&mut store, &operation.key, &operation.action);
            operation
                .returned
                .as_ref()
                .is_none_or(|(_, o)| *o == answer)
        });
        if fits && some_order_exists(history, placed) {
            return true;
        }
        placed.pop();
    }
    false
}

/// Any operations with any answers, few values and few moments: good and bad ones.
fn any_operation() -> impl Strategy<Value = Operation> {
    let value = || (0..3_u8).prop_map(|v| Bytes::from(vec![b'a' + v]));
    let answered = prop_oneof![
        2 => value().prop_map(|v| (Action::Put(v), Outcome::Created)),
        1 => value().prop_map(|v| (Action::Put(v), Outcome::KeyExists)),
        3 => value().prop_map(|v| (Action::Update(v), Outcome::Created)),
        2 => Just((Action::Remove, Outcome::Removed)),
        1 => Just((Action::Remove, Outcome::NotFound)),
        4 => value().prop_map(|v| (Action::Get, Outcome::Found(v))),
        1 => Just((Action::Get, Outcome::NotFound)),
    ];
    (answered, 0..30_u64, 0..20_u64, 0..4_u8).prop_map(|((action, outcome), from, length, lost)| {
        Operation {
            client: 0,
            key: bytes("k"),
            action,
            invoked_ns: from,
            returned: (lost > 0).then_some((from + length, outcome)),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn small_histories_are_judged_as_by_a_search_that_tries_everything(
        history in proptest::collection::vec(any_operation(), 1..8)
    ) {
        let expected = some_order_exists(&history, &mut Vec::new());
        let verdict = check(&history, STEPS_MAX);
        prop_assert_eq!(verdict == Verdict::Linearizable, expected, "{}", verdict);
        if let Verdict::NotLinearizable(violation) = verdict {
            // What it shows is itself a violation, and the moment before it is none.
            prop_assert!(!some_order_exists(&violation.prefix, &mut Vec::new()));
            let mut earlier = violation.prefix.clone();
            earlier.retain(|o| o.invoked_ns < violation.until_ns);
            for operation in &mut earlier {
                operation.returned.take_if(|(at, _)| *at >= violation.until_ns);
            }
            prop_assert!(some_order_exists(&earlier, &mut Vec::new()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_a_real_register_answered_is_accepted(
        seed in any::<u64>(), clients in 1..40_u64, keys in 1..6_u64
    ) {
        let history = truthful_history(seed, clients, keys, 600);
        let verdict = check(&history, STEPS_MAX);
        prop_assert_eq!(&verdict, &Verdict::Linearizable, "{}", verdict);
    }

    #[test]
    fn a_read_that_is_changed_to_a_value_of_another_time_is_rejected(
        seed in any::<u64>(), clients in 1..40_u64, keys in 1..6_u64
    ) {
        let mut history = truthful_history(seed, clients, keys, 600);
        let mut random = Random(seed);
        let reads: Vec<usize> = (0..history.len())
            .filter(|i| matches!(history[*i].returned, Some((_, Outcome::Found(_)))))
            .collect();
        prop_assume!(!reads.is_empty());
        let read = reads[random.below(reads.len() as u64) as usize];
        // The value of a write that began after the read had returned.
        let returned_ns = history[read].returned.as_ref().map_or(0, |(at, _)| *at);
        let later = history.iter().find_map(|o| match &o.action {
            Action::Put(v) | Action::Update(v) if o.invoked_ns > returned_ns => Some(v.clone()),
            _ => None,
        });
        let value = later.unwrap_or_else(|| bytes("never written"));
        history[read].returned = Some((returned_ns, Outcome::Found(value)));
        let verdict = check(&history, STEPS_MAX);
        prop_assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{}", verdict);
    }
}

#[test]
fn large_histories_are_judged_within_seconds() {
    let begin = Instant::now();
    // Many keys; then one key that all forty clients use.
    check(&truthful_history(1, 40, 100, 50_000), STEPS_MAX).assert_linearizable();
    let mut hot = truthful_history(2, 40, 1, 10_000);
    check(&hot, STEPS_MAX).assert_linearizable();
    let last = hot
        .iter_mut()
        .rev()
        .find(|o| matches!(o.returned, Some((_, Outcome::Found(_)))))
        .expect("a read");
    last.returned.as_mut().expect("a read").1 = Outcome::Found(bytes("v3"));
    let verdict = check(&hot, STEPS_MAX);
    assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
    let took = begin.elapsed();
    assert!(took.as_secs() < 20, "took {took:?}");
}
