//! Each known bug of the core is found: an explorer that finds nothing proves nothing until it
//! has found these. In the core as it is nothing is found (`tests/explorer.rs`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::*;
use crate::mutation::{Mutation, with};
use crate::raft::tests::run_script;

/// Each known bug of the core but those of leases, with a scenario in which it is found.
const FOUND_BY: [(Mutation, &str); 17] = [
    (Mutation::VoteNotPersisted, "elections"),
    (Mutation::SecondVote, "elections"),
    (Mutation::VoteForShorterLog, "succession"),
    (Mutation::ReplyClaimsLogEnd, "large-entry"),
    (Mutation::OldTermByCounting, "figure-8"),
    (Mutation::VolatileLeaderIndex, "replication"),
    (Mutation::NoNoop, "reads-of-a-new-leader"),
    (Mutation::ReadWithoutQuorum, "reads"),
    (Mutation::ReusedReadContext, "reads"),
    (Mutation::ReusedFollowerContext, "reads-of-followers"),
    (Mutation::JointAsSimple, "joint-change"),
    (Mutation::LearnerCounts, "learner"),
    (Mutation::MatchingTailDropped, "late-entries"),
    (Mutation::StaleTailKept, "conflicting-tail"),
    (Mutation::ForgetfulVoter, "lost-directory"),
    (Mutation::AnyIncarnation, "late-vote"),
    (Mutation::VoteByNode, "late-vote"),
];

fn scenario(name: &str) -> &'static Scenario {
    let named = SCENARIOS.iter().find(|scenario| scenario.name == name);
    named.unwrap_or_else(|| panic!("no scenario {name}"))
}

fn search(name: &str, states_max: usize) -> Outcome {
    let limits = Limits {
        states_max,
        depth_max: u32::MAX,
        time_max: Duration::from_secs(300),
        jobs: 1,
    };
    explore(scenario(name), &limits, &mut |_| {})
}

#[test]
fn each_known_bug_of_the_core_but_those_of_leases_is_found_and_its_script_shows_it() {
    for (bug, name) in FOUND_BY {
        let outcome = with(bug, || search(name, 5_000_000));
        let Report { states, depth, .. } = outcome.report;
        let Some(Finding { what, script, .. }) = outcome.finding else {
            panic!(
                "{bug:?} is not found in {name}: {:?}, {:?}",
                outcome.report, outcome.end
            );
        };
        let what = what.lines().next().unwrap_or_default();
        println!("| {bug:?} | `{name}` | {depth} | {states} | {what} |\n\n{script}");
        // What the script brings about with the bug is not what it brings about without.
        let right = run_script(&script);
        let wrong = with(bug, || {
            catch_unwind(AssertUnwindSafe(|| run_script(&script)))
        });
        assert!(
            wrong.is_err() || wrong.unwrap() != right,
            "{bug:?}: {script}"
        );
    }
}

#[test]
fn every_known_bug_of_the_core_is_looked_for_but_those_of_leases() {
    let leases = [Mutation::LeaseAfterTransfer, Mutation::LeaseNotHonoured];
    for bug in Mutation::OF_CORE {
        let looked_for = FOUND_BY.iter().any(|(of, _)| *of == bug);
        assert_ne!(looked_for, leases.contains(&bug), "{bug:?}");
    }
}
