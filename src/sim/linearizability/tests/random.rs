//! Histories that nobody wrote: what a real store could have answered, and anything at all,
//! judged by a search that tries everything.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

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
    truthful_history_with(seed, clients, operations, 50, |_, random, value| {
        let key = Bytes::from(format!("k{}", random.below(keys)));
        (key, plain_action(random, value))
    })
}

fn plain_action(random: &mut Random, value: Bytes) -> Action {
    match random.below(10) {
        0..2 => Action::Put(value),
        2..5 => Action::Update(value),
        5 => Action::Remove,
        _ => Action::Get,
    }
}

/// As [`truthful_history`], with compare-and-sets, batches and scans of groups of so many keys.
/// One of `lost_of` operations gets no answer.
fn truthful_joint_history(
    seed: u64,
    clients: u64,
    (groups, group): (u64, u64),
    (operations, lost_of): (u64, u64),
) -> Vec<Operation> {
    truthful_history_with(
        seed,
        clients,
        operations,
        lost_of,
        |history, random, value| {
            let of_group = random.below(groups);
            let key = |n: u64| Bytes::from(format!("k{of_group}-{n}"));
            let any = random.below(group);
            // A value that somebody wrote not long ago; what it was answered is not known yet.
            let near = |random: &mut Random| {
                let back = (random.below(20) as usize).min(history.len().saturating_sub(1));
                let operation = history.len().checked_sub(back + 1).map(|at| &history[at]);
                operation.and_then(|o| match &o.action {
                    Action::Put(v) | Action::Update(v) => Some(v.clone()),
                    _ => None,
                })
            };
            match random.below(14) {
                0..9 => (key(any), plain_action(random, value)),
                9 | 10 => {
                    let new = (random.below(4) > 0).then_some(value);
                    let expected = near(random);
                    (key(any), Action::Cas { expected, new })
                }
                11 => {
                    let begin = random.below(group);
                    let count = group.min(2 + random.below(2));
                    let operations = (0..count).map(|n| {
                        let value = Bytes::from([&value[..], format!("-{n}").as_bytes()].concat());
                        let action = match random.below(8) {
                            0 => Action::Put(value),
                            1 => Action::Remove,
                            2 => Action::Cas {
                                expected: near(random),
                                new: Some(value),
                            },
                            _ => Action::Update(value),
                        };
                        (key((begin + n) % group), action)
                    });
                    let operations: Vec<_> = operations.collect();
                    (operations[0].0.clone(), Action::Batch(operations))
                }
                _ => {
                    let until = Some(key(group));
                    (key(0), Action::Scan { until })
                }
            }
        },
    )
}

fn truthful_history_with(
    seed: u64,
    clients: u64,
    operations: u64,
    lost_of: u64,
    draw: impl Fn(&[Operation], &mut Random, Bytes) -> (Bytes, Action),
) -> Vec<Operation> {
    let mut random = Random(seed);
    // (effect, place) of each operation, to be carried out by effect.
    let mut effects = Vec::new();
    let mut history: Vec<Operation> = Vec::new();
    let mut free_at = vec![0; clients as usize];
    for number in 0..operations {
        let client = random.below(clients);
        let invoked_ns = free_at[client as usize] + 1 + random.below(50);
        let effect = invoked_ns + random.below(200);
        let returned_ns = effect + random.below(200);
        free_at[client as usize] = returned_ns;
        let value = Bytes::from(format!("v{number}"));
        let (key, action) = draw(&history, &mut random, value);
        // Some never get their answer, and half of these never take effect.
        let lost = random.below(lost_of) == 0;
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
            key,
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
        Action::Cas { expected, new } => match (store.get(key), new) {
            (current, Some(value)) if current == expected.as_ref() => {
                store.insert(key.clone(), value.clone());
                Outcome::Created
            }
            (current, None) if current == expected.as_ref() => {
                store.remove(key);
                Outcome::Removed
            }
            (None, _) => Outcome::NotFound,
            (Some(_), _) => Outcome::Mismatch,
        },
        Action::Batch(operations) => {
            let mut after = store.clone();
            for (at, (key, action)) in operations.iter().enumerate() {
                let outcome = apply(&mut after, key, action);
                if !matches!(outcome, Outcome::Created | Outcome::Removed) {
                    return Outcome::BatchFailed(at);
                }
            }
            *store = after;
            Outcome::Created
        }
        Action::Scan { until } => {
            let from = store.range(key.clone()..);
            let covered = from.take_while(|(key, _)| until.as_ref().is_none_or(|u| *key < u));
            Outcome::Entries(covered.map(|(k, v)| (k.clone(), v.clone())).collect())
        }
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

fn any_value() -> impl Strategy<Value = Bytes> {
    (0..3_u8).prop_map(|v| Bytes::from(vec![b'a' + v]))
}

fn any_write() -> impl Strategy<Value = Action> {
    let or_absent = || prop::option::of(any_value());
    prop_oneof![
        any_value().prop_map(Action::Put),
        any_value().prop_map(Action::Update),
        Just(Action::Remove),
        (or_absent(), or_absent()).prop_map(|(expected, new)| Action::Cas { expected, new }),
    ]
}

/// As [`any_operation`], on two keys and with operations on both. What they could not have been
/// answered at all is left without an answer.
fn any_joint_operation() -> impl Strategy<Value = Operation> {
    let key = || (0..2_u8).prop_map(|k| Bytes::from(vec![b'x' + k]));
    let both = (any_write(), any_write(), any::<bool>()).prop_map(|(x, y, turned)| {
        let mut operations = vec![(bytes("x"), x), (bytes("y"), y)];
        if turned {
            operations.reverse();
        }
        (bytes("x"), Action::Batch(operations))
    });
    let until = prop::option::of(Just(bytes("y")));
    let call = prop_oneof![
        3 => (key(), any_write()),
        2 => (key(), Just(Action::Get)),
        3 => both,
        2 => (key(), until).prop_map(|(key, until)| (key, Action::Scan { until })),
    ];
    let store = prop::collection::btree_map(key(), any_value(), 0..3);
    (call, store, 0..30_u64, 0..20_u64, 0..4_u8).prop_map(
        |((key, action), mut store, from, length, lost)| {
            // What a store could have answered, though perhaps not the one of this history.
            let outcome = apply(&mut store, &key, &action);
            Operation {
                client: 0,
                key,
                action,
                invoked_ns: from,
                returned: (lost > 0).then_some((from + length, outcome)),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_000))]

    #[test]
    fn small_joint_histories_are_judged_as_by_a_search_that_tries_everything(
        history in proptest::collection::vec(any_joint_operation(), 1..7)
    ) {
        let expected = some_order_exists(&history, &mut Vec::new());
        let verdict = check(&history, STEPS_MAX);
        prop_assert_eq!(verdict == Verdict::Linearizable, expected, "{} {:?}", verdict, history);
        if let Verdict::NotLinearizable(violation) = verdict {
            prop_assert!(!some_order_exists(&violation.prefix, &mut Vec::new()));
        }
    }

    #[test]
    fn one_key_is_judged_jointly_as_by_itself(
        history in proptest::collection::vec(any_operation(), 1..8)
    ) {
        let mut operations: Vec<&Operation> = history.iter().collect();
        operations.sort_by_key(|o| o.invoked_ns);
        let alone = Register::new(&operations, u64::MAX).search(STEPS_MAX);
        let jointly = Joint::search(&[bytes("k")], &operations, u64::MAX, STEPS_MAX);
        prop_assert_eq!(alone, jointly);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_a_real_store_answered_over_several_keys_is_accepted(
        seed in any::<u64>(), clients in 1..16_u64, group in 1..4_u64
    ) {
        let history = truthful_joint_history(seed, clients, (2, group), (600, 50));
        let verdict = check(&history, STEPS_MAX);
        prop_assert_eq!(&verdict, &Verdict::Linearizable, "{}", verdict);
    }

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

/// What the tests on real processes record, and more: many clients at few keys.
#[test]
fn large_joint_histories_are_judged_within_seconds() {
    let begin = Instant::now();
    for (clients, group) in [(8, 3), (24, 3), (8, 8)] {
        for seed in 0..2 {
            let mut history = truthful_joint_history(seed, clients, (1, group), (4_000, 200));
            check(&history, STEPS_MAX).assert_linearizable();
            // The last scan that found something saw what nobody wrote.
            let last = history
                .iter_mut()
                .rev()
                .find_map(|o| match &mut o.returned {
                    Some((_, Outcome::Entries(entries))) if !entries.is_empty() => Some(entries),
                    _ => None,
                });
            let value = &mut last.expect("a scan")[0].1;
            *value = bytes("never written");
            let verdict = check(&history, STEPS_MAX);
            assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
        }
    }
    let took = begin.elapsed();
    assert!(took.as_secs() < 20, "took {took:?}");
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
