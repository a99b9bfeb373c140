//! Tests of the core: scripts that read like stories (`scripts/`), tests that name
//! their section of the paper, and random runs that must keep every promise.

mod cluster;
mod paper;
mod random;
mod script;
mod show;
mod thesis;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::mutation::{Mutation, with};

/// The interaction scripts of etcd's Raft that apply here.
const ETCD: [&str; 29] = [
    "async_storage_writes",
    "async_storage_writes_append_aba_race",
    "campaign",
    "campaign_learner_must_vote",
    "checkquorum",
    "confchange_disable_validation",
    "confchange_drop_if_unapplied",
    "confchange_v1_add_single",
    "confchange_v1_remove_leader",
    "confchange_v1_remove_leader_stepdown",
    "confchange_v2_add_double_auto",
    "confchange_v2_add_double_implicit",
    "confchange_v2_add_single_auto",
    "confchange_v2_add_single_explicit",
    "confchange_v2_replace_leader",
    "confchange_v2_replace_leader_stepdown",
    "forget_leader",
    "forget_leader_prevote_checkquorum",
    "forget_leader_read_only_lease_based",
    "heartbeat_resp_recovers_from_probing",
    "lagging_commit",
    "prevote",
    "prevote_checkquorum",
    "probe_and_replicate",
    "replicate_pause",
    "single_node",
    "slow_follower_after_compaction",
    "snapshot_succeed_via_app_resp",
    "snapshot_succeed_via_app_resp_behind",
];

/// The tests of the labs of MIT 6.5840 that are about the core.
const MIT: [&str; 28] = [
    "InitialElection",
    "ReElection",
    "ManyElections",
    "BasicAgree",
    "RPCBytes",
    "FollowerFailure",
    "LeaderFailure",
    "FailAgree",
    "FailNoAgree",
    "ConcurrentStarts",
    "Rejoin",
    "Backup",
    "Count",
    "Persist1",
    "Persist2",
    "Persist3",
    "Figure8",
    "UnreliableAgree",
    "Figure8Unreliable",
    "ReliableChurn",
    "UnreliableChurn",
    "SnapshotBasic",
    "SnapshotInstall",
    "SnapshotInstallUnreliable",
    "SnapshotInstallCrash",
    "SnapshotInstallUnCrash",
    "SnapshotAllCrash",
    "SnapshotInit",
];

/// The defects of the original that lay in what is the core here.
const ORIGINAL: [&str; 12] = [
    "D1", "D2", "D3", "D5", "D6", "D8", "D9", "D10", "D11", "D12", "D15", "D17",
];

/// Runs a script of another module's making; returns it with its effects.
pub(crate) fn run_script(script: &str) -> String {
    script::run(script)
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/tests/scripts")
}

#[test]
fn scripts_bring_about_what_they_say() {
    script::check_folder(&scripts());
}

#[test]
fn every_scenario_of_the_lists_is_told_by_a_script_and_no_script_names_another() {
    let lists = [("etcd", &ETCD[..]), ("MIT", &MIT), ("original", &ORIGINAL)];
    let listed = lists
        .iter()
        .flat_map(|(source, names)| names.iter().map(move |name| format!("{source}/{name}")));
    let listed: BTreeSet<String> = listed.collect();
    let mut told = BTreeSet::new();
    let mut count = 0;
    for file in std::fs::read_dir(scripts()).expect("the folder of the scripts") {
        let path = file.expect("a file").path();
        let script = std::fs::read_to_string(&path).expect("a script");
        let named = script
            .lines()
            .filter_map(|l| l.strip_prefix("# Scenario: "));
        told.extend(named.map(str::to_owned));
        count += 1;
    }
    let missing: Vec<&String> = listed.difference(&told).collect();
    assert!(missing.is_empty(), "no script tells {missing:?}");
    let unknown: Vec<&String> = told.difference(&listed).collect();
    assert!(unknown.is_empty(), "in no list: {unknown:?}");
    assert!(count >= 90, "{count} scripts");
}

#[test]
fn each_known_bug_of_the_core_changes_what_a_script_brings_about() {
    let files = std::fs::read_dir(scripts()).expect("the folder of the scripts");
    let texts: Vec<String> = files
        .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("a script"))
        .collect();
    for bug in Mutation::OF_CORE {
        // A promise that is broken panics.
        let shows = |script: &&String| {
            let run = AssertUnwindSafe(|| script::run(script));
            let outcome = with(bug, || catch_unwind(run));
            outcome.map_or(true, |effects| effects != **script)
        };
        let count = texts.iter().filter(shows).count();
        println!("{bug:?}: {count}");
        assert!(count > 0, "no script shows {bug:?}");
    }
}
