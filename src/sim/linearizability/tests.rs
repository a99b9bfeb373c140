//! The checker is judged by histories whose verdict is known. Here are those written by hand;
//! [`random`] has those made from a real store, or judged by a search that tries everything.

mod random;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Writes a history down, one operation a line: `client from..to what`, in which `..?` stands
/// for no answer, as in `1 10..20 put a -> created` and `2 15..? update b`.
///
/// The key is `k` unless `what` begins with another, as in `x:put a`. In `cas a b`, `-` stands
/// for absent; a batch is `batch x:put a, y:remove`, a scan `scan x..z`, in answer to which
/// `x=a y=b` are entries and `empty` is none.
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
    let mut words = call.splitn(3, ' ');
    let mut word = || words.next().expect("client, moments, action").trim();
    let (client, moments) = (word(), word());
    let (from, to) = moments.split_once("..").expect("from..to");
    let (key, action) = keyed_action(word());
    Operation {
        client: client.parse().expect("a number"),
        key,
        action,
        invoked_ns: from.parse().expect("a number"),
        returned: answer.map(|a| (to.parse().expect("a number"), outcome(a))),
    }
}

fn keyed_action(text: &str) -> (Bytes, Action) {
    if let Some(operations) = text.strip_prefix("batch ") {
        let operations: Vec<_> = operations.split(", ").map(keyed_action).collect();
        return (operations[0].0.clone(), Action::Batch(operations));
    }
    if let Some(range) = text.strip_prefix("scan ") {
        let (from, until) = range.split_once("..").expect("from..until");
        let until = (!until.is_empty()).then(|| bytes(until));
        return (bytes(from), Action::Scan { until });
    }
    let (key, text) = text.split_once(':').unwrap_or(("k", text));
    let words: Vec<&str> = text.split_whitespace().collect();
    let or_absent = |word: &str| (word != "-").then(|| bytes(word));
    let action = match words[0] {
        "put" => Action::Put(bytes(words[1])),
        "update" => Action::Update(bytes(words[1])),
        "remove" => Action::Remove,
        "get" => Action::Get,
        "cas" => Action::Cas {
            expected: or_absent(words[1]),
            new: or_absent(words[2]),
        },
        other => panic!("no such action: {other}"),
    };
    (bytes(key), action)
}

fn outcome(answer: &str) -> Outcome {
    match answer {
        "created" => Outcome::Created,
        "exists" => Outcome::KeyExists,
        "removed" => Outcome::Removed,
        "absent" => Outcome::NotFound,
        "mismatch" => Outcome::Mismatch,
        "empty" => Outcome::Entries(Vec::new()),
        entries if entries.contains('=') => {
            let entry = |text: &str| {
                let (key, value) = text.split_once('=').expect("key=value");
                (bytes(key), bytes(value))
            };
            Outcome::Entries(entries.split(' ').map(entry).collect())
        }
        text => match text.strip_prefix("failed ") {
            Some(at) => Outcome::BatchFailed(at.parse().expect("a number")),
            None => Outcome::Found(bytes(text)),
        },
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
fn compare_and_sets_that_follow_each_other_are_accepted() {
    accepted(
        "1 0..1 cas a b -> absent
         1 2..3 cas - a -> created
         1 4..5 cas - b -> mismatch
         1 6..7 cas b c -> mismatch
         1 8..9 cas a b -> created
         1 10..11 get -> b
         1 12..13 cas b - -> removed
         1 14..15 get -> absent",
    );
    accepted(
        "1 0..100 cas a b -> created
         2 0..100 cas b c -> created
         3 0..100 put a -> created
         4 101..102 get -> c",
    );
}

#[test]
fn a_stale_compare_and_set_is_rejected() {
    rejected(
        "1 0..1 update a -> created
         1 2..3 update b -> created
         2 4..5 cas a c -> created",
        "2 4..5 cas a c -> created",
    );
    rejected(
        "1 0..1 update a -> created
         2 2..3 cas a c -> mismatch",
        "2 2..3 cas a c -> mismatch",
    );
    rejected(
        "1 0..1 update a -> created
         2 2..3 cas a c -> absent",
        "2 2..3 cas a c -> absent",
    );
    rejected(
        "1 0..1 update a -> created
         2 2..3 cas - c -> created",
        "2 2..3 cas - c -> created",
    );
}

#[test]
fn of_two_compare_and_sets_of_one_value_only_one_takes_effect() {
    rejected(
        "1 0..1 put a -> created
         1 2..20 cas a b -> created
         2 2..21 cas a c -> created",
        "2 2..21 cas a c -> created",
    );
    rejected(
        "1 0..1 put a -> created
         1 2..? cas a b
         2 2..3 cas a c -> created
         2 4..5 get -> b",
        "2 4..5 get -> b",
    );
}

#[test]
fn a_compare_and_set_without_an_answer_may_take_effect_or_not() {
    for seen in ["a", "b", "c"] {
        accepted(&format!(
            "1 0..1 put a -> created
             1 2..? cas a b
             2 3..? cas b c
             3 100..101 get -> {seen}"
        ));
    }
    rejected(
        "1 0..1 put a -> created
         2 3..? cas b c
         3 100..101 get -> c",
        "3 100..101 get -> c",
    );
}

#[test]
fn a_batch_that_is_seen_whole_or_not_at_all_is_accepted() {
    accepted(
        "1 0..10 batch x:put a, y:put b -> created
         2 0..5 scan w..z -> empty
         2 6..7 scan w..z -> x=a y=b
         2 8..9 y:get -> b
         2 11..12 batch x:cas a c, y:remove -> created
         2 13..14 scan x..y -> x=c
         2 15..16 y:get -> absent
         2 17..18 batch x:update d, y:cas b e -> failed 1
         2 19..20 scan w.. -> x=c",
    );
}

#[test]
fn a_batch_seen_half_is_rejected() {
    rejected(
        "1 0..10 batch x:update a, y:update b -> created
         2 2..3 x:get -> a
         2 4..5 y:get -> absent",
        "2 4..5 y:get -> absent",
    );
    rejected(
        "1 0..10 batch x:update a, y:update b -> created
         2 2..3 scan x..z -> y=b",
        "2 2..3 scan x..z -> y=b",
    );
    rejected(
        "1 0..? batch x:update a, y:update b
         2 2..3 scan x..z -> x=a",
        "2 2..3 scan x..z -> x=a",
    );
    rejected(
        "1 0..1 batch x:update a, y:update b -> created
         1 2..3 batch x:update c, y:update d -> created
         2 2..4 x:get -> c
         2 5..6 y:get -> b",
        "2 5..6 y:get -> b",
    );
}

#[test]
fn a_batch_that_failed_changes_nothing_and_fails_for_a_reason() {
    rejected(
        "1 0..1 y:put b -> created
         1 2..3 batch x:update a, y:put c -> failed 1
         2 4..5 x:get -> a",
        "2 4..5 x:get -> a",
    );
    rejected(
        "1 2..3 batch x:update a, y:put c -> failed 1",
        "1 2..3 batch x:update a, y:put c -> failed 1",
    );
    // The first of two that fail is named.
    rejected(
        "1 2..3 batch x:remove, y:remove -> failed 1",
        "1 2..3 batch x:remove, y:remove -> failed 1",
    );
    rejected(
        "1 0..1 x:put a -> created
         1 2..3 batch x:put c, y:put c -> created",
        "1 2..3 batch x:put c, y:put c -> created",
    );
}

#[test]
fn a_scan_that_misses_a_committed_key_is_rejected() {
    rejected(
        "1 0..1 x:put a -> created
         1 2..3 y:put b -> created
         2 4..5 scan x..z -> y=b",
        "2 4..5 scan x..z -> y=b",
    );
    rejected(
        "1 0..1 x:put a -> created
         1 2..3 x:remove -> removed
         2 4..5 scan x..z -> x=a",
        "2 4..5 scan x..z -> x=a",
    );
}

#[test]
fn a_scan_that_mixes_two_states_is_rejected() {
    // x had gone to c before y was there at all.
    rejected(
        "1 0..1 x:put a -> created
         1 2..3 x:update c -> created
         1 4..5 y:put b -> created
         2 2..6 scan x..z -> x=a y=b",
        "2 2..6 scan x..z -> x=a y=b",
    );
    // Two scans see two concurrent writes in different orders.
    rejected(
        "1 0..100 x:put a -> created
         2 0..101 y:put b -> created
         3 10..20 scan x..z -> x=a
         4 10..21 scan x..z -> y=b",
        "4 10..21 scan x..z -> y=b",
    );
}

#[test]
fn a_scan_of_keys_that_nobody_wrote_is_rejected_only_if_it_found_some() {
    accepted("1 0..1 scan x..z -> empty");
    rejected("1 0..1 scan x..z -> y=b", "1 0..1 scan x..z -> y=b");
}

#[test]
fn operations_without_an_answer_help_each_other_over_several_keys() {
    // The batch needs the key that only the put can have made, and nobody else looks at.
    accepted(
        "1 0..? x:put a
         2 0..? batch x:remove, y:update b
         3 10..11 y:get -> b
         3 12..13 x:get -> absent",
    );
    // The batch was overwritten in part before the rest of it was seen.
    accepted(
        "1 0..? batch x:update a, y:update b
         2 5..6 x:update c -> created
         2 7..8 x:get -> c
         2 9..10 y:get -> b
         2 11..12 x:get -> c",
    );
    accepted(
        "1 0..? batch x:update a, y:update b
         1 0..? batch y:cas b c, z:update d
         2 9..10 z:get -> d",
    );
}

#[test]
fn a_report_on_several_keys_names_them() {
    let verdict = check(
        &history(
            "1 1000000..2000000 x:put a -> created
             1 1000000..2000000 batch x:cas a b, y:update c -> created
             3 3000000..4000000 scan x.. -> x=b",
        ),
        STEPS_MAX,
    );
    assert_eq!(
        verdict.to_string(),
        "not linearizable: keys \"x\", \"y\": no order explains their first 3 operations, up to       4.000 ms\n\
         \x20   client 1   [      1.000 ms ..       2.000 ms]  put \"a\" -> created  (key \"x\")\n\
         \x20   client 1   [      1.000 ms ..       2.000 ms]  batch [\"x\" cas \"a\" to \"b\"] [\"y\" update \"c\"] -> created\n\
         \x20 > client 3   [      3.000 ms ..       4.000 ms]  scan \"x\".. -> \"x\": \"b\"\n"
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
