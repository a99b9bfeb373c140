//! The scenarios there are: small ones, each about one thing and searched to the end or nearly
//! so, and one of everything.

use crate::explore::scenario::{BASE, Budget, Scenario, Spend, Start};

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    EVERYTHING,
    LEADERS,
    ELECTIONS,
    REPLICATION,
    SUCCESSION,
    LATE_ENTRIES,
    CONFLICTING_TAIL,
    LARGE_ENTRY,
    FIGURE_8,
    READS,
    READS_OF_A_NEW_LEADER,
    READS_OF_FOLLOWERS,
    LEARNER,
    JOINT_CHANGE,
    TWO_CHANGES,
    LEADER_LEAVES,
    RESTARTS,
    LOST_DIRECTORY,
    FOUNDING,
    FOUNDED_ANEW,
    EXCHANGE,
    SECOND_WIPE,
    LATE_VOTE,
    UPGRADE,
];

/// A leader of term 2 whose first entry all have.
const LED: &[&str] = &["tick n1 2000ms", "settle"];

const EVERYTHING: Scenario = Scenario {
    name: "everything",
    about: "a leader of three nodes, and one of each thing that may happen to it",
    before: LED,
    budget: Budget::of(&[
        (Spend::Timeout, 1),
        (Spend::Crash, 1),
        (Spend::Loss, 1),
        (Spend::Duplicate, 1),
        (Spend::Propose, 1),
        (Spend::Read, 1),
        (Spend::Change, 1),
    ]),
    changes: &["demote:n3"],
    ..BASE
};

const LEADERS: Scenario = Scenario {
    name: "leaders",
    about: "leaders come and go in three terms, with an entry, a read and a crash",
    budget: Budget::of(&[
        (Spend::Timeout, 2),
        (Spend::Crash, 1),
        (Spend::Propose, 1),
        (Spend::Read, 1),
        (Spend::Heartbeat, 1),
        (Spend::Repeat, 1),
        (Spend::StepDown, 1),
        (Spend::Forget, 1),
        (Spend::Transfer, 1),
    ]),
    ..BASE
};

const ELECTIONS: Scenario = Scenario {
    name: "elections",
    about: "three nodes elect leaders in two terms; one crashes, one message arrives twice",
    budget: Budget::of(&[
        (Spend::Timeout, 2),
        (Spend::Crash, 1),
        (Spend::Duplicate, 1),
    ]),
    ..BASE
};

const REPLICATION: Scenario = Scenario {
    name: "replication",
    about: "a leader's two entries on their way to the disks, with a crash",
    before: LED,
    term_max: 2,
    budget: Budget::of(&[
        (Spend::Propose, 2),
        (Spend::Crash, 1),
        (Spend::Repeat, 1),
        (Spend::Heartbeat, 1),
    ]),
    ..BASE
};

const SUCCESSION: Scenario = Scenario {
    name: "succession",
    about: "a leader's entry is committed, or not, and another node wants to lead",
    before: LED,
    autosync: true,
    budget: Budget::of(&[
        (Spend::Propose, 1),
        (Spend::Timeout, 1),
        (Spend::Crash, 1),
        (Spend::Transfer, 1),
    ]),
    ..BASE
};

const LATE_ENTRIES: Scenario = Scenario {
    name: "late-entries",
    about: "entries overtake each other, and some arrive twice",
    before: LED,
    autosync: true,
    term_max: 2,
    budget: Budget::of(&[
        (Spend::Propose, 2),
        (Spend::Duplicate, 2),
        (Spend::Repeat, 1),
    ]),
    ..BASE
};

const CONFLICTING_TAIL: Scenario = Scenario {
    name: "conflicting-tail",
    about: "a leader of term 4 meets a node with the tail of a dead leader",
    disks: &[
        start(1, "1@1 2@3", 3),
        start(2, "1@1 2@2", 3),
        start(3, "1@1", 3),
    ],
    before: &[
        "tick n1 2000ms",
        "deliver n1->n3 prevote",
        "deliver n3->n1 prevote-reply",
        "deliver n1->n3 vote",
        "deliver n3->n1 vote-reply",
    ],
    term_max: 5,
    budget: Budget::of(&[(Spend::Crash, 1), (Spend::Timeout, 1)]),
    ..BASE
};

const LARGE_ENTRY: Scenario = Scenario {
    name: "large-entry",
    about: "a leader asks with an empty probe, for the next entry is large, where the logs part",
    before: &[
        "tick n1 2000ms",
        "settle",
        // An entry of n1 that is too large for a probe, and that nobody gets.
        "propose n1 x size=5000",
        "drop",
        // Entries of n2 in term 3 that nobody gets.
        "tick n2 2000ms",
        "deliver n2->n3 prevote",
        "deliver n3->n2 prevote-reply",
        "deliver n2->n3 vote",
        "deliver n3->n2 vote-reply",
        "propose n2 x",
        "drop",
        // n1 leads term 4, once it has learnt of term 3.
        "tick n1 2001ms",
        "tick n1 2000ms",
        "deliver n1->n3 prevote",
        "deliver n3->n1 prevote-reply",
        "drop",
        "tick n1 2000ms",
        "deliver n1->n3 prevote",
        "deliver n3->n1 prevote-reply",
        "deliver n1->n3 vote",
        "deliver n3->n1 vote-reply",
    ],
    autosync: true,
    term_max: 5,
    budget: Budget::of(&[
        (Spend::Repeat, 1),
        (Spend::Heartbeat, 1),
        (Spend::Timeout, 1),
    ]),
    ..BASE
};

const FIGURE_8: Scenario = Scenario {
    name: "figure-8",
    about: "an old entry on a majority can still be overwritten (Raft paper, Figure 8)",
    actors: &[1, 3],
    disks: &[
        start(1, "1@1 2@2", 3),
        start(2, "1@1 2@2", 3),
        start(3, "1@1 2@3", 4),
    ],
    before: &[
        "tick n1 2000ms",
        "deliver n1->n2 prevote",
        "deliver n2->n1 prevote-reply",
        "deliver n1->n2 vote",
        "drop n1->n3 prevote",
        "drop n1->n3 vote",
    ],
    term_max: 5,
    budget: Budget::of(&[(Spend::Crash, 1), (Spend::Timeout, 1)]),
    ..BASE
};

const READS: Scenario = Scenario {
    name: "reads",
    about: "a leader is asked for a read while another takes over and commits",
    before: LED,
    autosync: true,
    budget: Budget::of(&[(Spend::Read, 1), (Spend::Timeout, 1), (Spend::Heartbeat, 1)]),
    ..BASE
};

const READS_OF_A_NEW_LEADER: Scenario = Scenario {
    name: "reads-of-a-new-leader",
    about: "a leader is asked for a read before it knows what is committed",
    before: &[
        "tick n1 2000ms",
        "settle",
        "propose n1 x",
        "deliver n1->n2 append",
        "deliver n2->n1 append-reply",
        "drop",
    ],
    autosync: true,
    budget: Budget::of(&[(Spend::Read, 1), (Spend::Timeout, 1)]),
    ..BASE
};

const READS_OF_FOLLOWERS: Scenario = Scenario {
    name: "reads-of-followers",
    about: "a follower is asked for reads while entries are committed without it",
    before: LED,
    autosync: true,
    term_max: 2,
    budget: Budget::of(&[(Spend::Read, 2), (Spend::Propose, 1), (Spend::Duplicate, 1)]),
    ..BASE
};

const LEARNER: Scenario = Scenario {
    name: "learner",
    about: "two voters and a learner, which is promoted",
    nodes: 2,
    spare: 1,
    before: &["tick n1 2000ms", "settle", "change n1 add:n3", "settle"],
    budget: Budget::of(&[
        (Spend::Propose, 1),
        (Spend::Timeout, 1),
        (Spend::Change, 1),
        (Spend::Crash, 1),
    ]),
    changes: &["promote:n3"],
    ..BASE
};

const JOINT_CHANGE: Scenario = Scenario {
    name: "joint-change",
    about: "one voter of three takes the place of another, while others want to lead",
    spare: 1,
    before: &["tick n1 2000ms", "settle", "change n1 add:n4", "settle"],
    autosync: true,
    budget: Budget::of(&[
        (Spend::Change, 1),
        (Spend::Timeout, 1),
        (Spend::Heartbeat, 1),
        (Spend::Crash, 1),
    ]),
    changes: &["promote:n4 demote:n3"],
    ..BASE
};

const TWO_CHANGES: Scenario = Scenario {
    name: "two-changes",
    about: "two leaders of four voters begin a change each (Ongaro, raft-dev 2015-07-10)",
    nodes: 4,
    before: LED,
    autosync: true,
    budget: Budget::of(&[
        (Spend::Change, 2),
        (Spend::Timeout, 2),
        (Spend::StepDown, 1),
    ]),
    changes: &["demote:n3", "demote:n4"],
    ..BASE
};

const LEADER_LEAVES: Scenario = Scenario {
    name: "leader-leaves",
    about: "a leader removes itself, and another node wants to lead",
    before: LED,
    budget: Budget::of(&[
        (Spend::Change, 1),
        (Spend::Timeout, 1),
        (Spend::Propose, 1),
        (Spend::Crash, 1),
    ]),
    changes: &["remove:n1"],
    symmetric: false,
    ..BASE
};

const RESTARTS: Scenario = Scenario {
    name: "restarts",
    about: "any nodes crash, three times in all, while an entry is being committed",
    before: LED,
    budget: Budget::of(&[(Spend::Crash, 3), (Spend::Timeout, 1), (Spend::Propose, 1)]),
    ..BASE
};

const LOST_DIRECTORY: Scenario = Scenario {
    name: "lost-directory",
    about: "below feature level 1, who has confirmed a committed entry loses its directory",
    level: 0,
    before: &[
        "tick n1 2000ms",
        "settle",
        "propose n1 x",
        "deliver n1->n2 append",
        "deliver n2->n1 append-reply",
        "drop",
    ],
    autosync: true,
    budget: Budget::of(&[(Spend::Loss, 1), (Spend::Timeout, 1), (Spend::Heartbeat, 1)]),
    ..BASE
};

const FOUNDING: Scenario = Scenario {
    name: "founding",
    about: "n1 founds a cluster and crashes; n2 and n3 come up late, and a client writes",
    unborn: true,
    term_max: 2,
    budget: Budget::of(&[
        (Spend::Found, 2),
        (Spend::Introduce, 2),
        (Spend::Crash, 1),
        (Spend::Timeout, 1),
        (Spend::Heartbeat, 1),
        (Spend::Propose, 1),
    ]),
    actors: &[1, 2],
    ..BASE
};

const FOUNDED_ANEW: Scenario = Scenario {
    name: "founded-anew",
    about: "n1 founds a cluster, loses its directory at any moment, and may found another",
    nodes: 2,
    unborn: true,
    autosync: true,
    term_max: 2,
    budget: Budget::of(&[
        (Spend::Found, 2),
        (Spend::Introduce, 3),
        (Spend::Loss, 1),
        (Spend::Timeout, 1),
        (Spend::Heartbeat, 1),
        (Spend::Propose, 1),
        (Spend::Duplicate, 1),
    ]),
    ..BASE
};

const EXCHANGE: Scenario = Scenario {
    name: "exchange",
    about: "n3 is wiped and exchanged, while what was sent to its old directory is on its way",
    before: &[
        "tick n1 2000ms",
        "settle",
        "propose n1 x",
        "deliver n1->n2 append",
        "deliver n2->n1 append-reply",
    ],
    autosync: true,
    term_max: 3,
    budget: Budget::of(&[
        (Spend::Loss, 1),
        (Spend::Introduce, 1),
        (Spend::Timeout, 1),
        (Spend::Heartbeat, 1),
        (Spend::Crash, 1),
    ]),
    ..BASE
};

const SECOND_WIPE: Scenario = Scenario {
    name: "second-wipe",
    about: "n3 is wiped once more while its new directory takes the place of the old one",
    before: &[
        "tick n1 2000ms",
        "settle",
        "restart n3 lost",
        "introduce n1 n3",
    ],
    autosync: true,
    term_max: 3,
    budget: Budget::of(&[
        (Spend::Loss, 1),
        (Spend::Introduce, 2),
        (Spend::Timeout, 1),
        (Spend::Heartbeat, 1),
    ]),
    actors: &[1, 3],
    ..BASE
};

const LATE_VOTE: Scenario = Scenario {
    name: "late-vote",
    about: "n5 has voted for n1 in term 3; a new directory of n1 campaigns in that very term",
    nodes: 5,
    before: &[
        "tick n4 2000ms",
        "settle",
        // n1 campaigns for term 3, and only n5 hears of it; its vote is on its way.
        "tick n1 2000ms",
        "deliver n1->n2 prevote",
        "deliver n1->n5 prevote",
        "deliver n2->n1 prevote-reply",
        "deliver n5->n1 prevote-reply",
        "deliver n1->n5 vote",
        "drop n1->n3 prevote",
        "drop n1->n4 prevote",
        "drop n1->n2 vote",
        "drop n1->n3 vote",
        "drop n1->n4 vote",
        // n1 is wiped, and exchanged in term 2 by n2, n3 and n4.
        "restart n1 lost",
        "introduce n4 n1",
        "deliver n4->n2 append",
        "deliver n4->n3 append",
        "deliver n4->n1 append",
        "deliver n2->n4 append-reply",
        "deliver n3->n4 append-reply",
        "deliver n1->n4 append-reply",
        "deliver n4->n1 append",
        "deliver n1->n4 append-reply",
        "tick n4 1000ms",
        "deliver n4->n2 append",
        "deliver n4->n3 append",
        "deliver n4->n1 append",
        "deliver n2->n4 append-reply",
        "deliver n3->n4 append-reply",
        "deliver n1->n4 append-reply",
        "deliver n4->n2 append",
        "deliver n4->n3 append",
        "deliver n4->n1 append",
        "deliver n2->n4 append-reply",
        "deliver n3->n4 append-reply",
        "deliver n1->n4 append-reply",
        "deliver n4->n2 append",
        "deliver n4->n3 append",
        "deliver n4->n1 append",
        "drop n4->n5 append",
        "drop n4->n1 heartbeat",
        "drop n4->n2 heartbeat",
        "drop n4->n3 heartbeat",
        "drop n4->n5 heartbeat",
        "drop n1->n4 append-reply",
        "drop n2->n4 append-reply",
        "drop n3->n4 append-reply",
    ],
    autosync: true,
    term_max: 3,
    budget: Budget::of(&[(Spend::Timeout, 1)]),
    actors: &[1],
    ..BASE
};

const UPGRADE: Scenario = Scenario {
    name: "upgrade",
    about: "a leader names all directories in the log, while others lead or lose theirs",
    level: 0,
    before: LED,
    autosync: true,
    term_max: 3,
    budget: Budget::of(&[
        (Spend::Introduce, 3),
        (Spend::Loss, 1),
        (Spend::Timeout, 1),
        (Spend::Propose, 1),
    ]),
    actors: &[1, 3],
    symmetric: false,
    ..BASE
};

const fn start(node: u64, log: &'static str, term: u64) -> Start {
    Start {
        node,
        log,
        term,
        vote: None,
    }
}
