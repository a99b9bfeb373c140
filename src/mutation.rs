//! Known bugs that tests can switch on, to show that they would be found. Only unit tests of
//! this crate have them: anywhere else `mutated!` is `false`, and the compiler drops what
//! hangs on it. The tables in `docs/TESTING.md` say which test finds which.

/// Whether this bug is switched on.
#[cfg(not(test))]
macro_rules! mutated {
    ($name:ident) => {
        false
    };
}
#[cfg(test)]
macro_rules! mutated {
    ($name:ident) => {
        $crate::mutation::is_active($crate::mutation::Mutation::$name)
    };
}
pub(crate) use mutated;

#[cfg(test)]
pub(crate) use self::switch::{Mutation, active, is_active, is_found, set_active, with};

#[cfg(test)]
mod switch {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// A bug that somebody has had.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Mutation {
        /// A vote is given and forgotten by a crash.
        VoteNotPersisted,
        /// Messages of a new term leave before that is on disk.
        TermNotAwaited,
        /// A node votes again in the same term.
        SecondVote,
        /// A vote is given to a log that lacks entries.
        VoteForShorterLog,
        /// A follower confirms the end of its log, not what the request proved.
        ReplyClaimsLogEnd,
        /// A follower confirms entries before they are on its disk.
        ReplyBeforeSync,
        /// Entries of an old term are committed by counting.
        OldTermByCounting,
        /// A leader counts itself by what is not on its disk yet.
        VolatileLeaderIndex,
        /// A leader begins without an entry of its own.
        NoNoop,
        /// Reads are answered without asking anyone.
        ReadWithoutQuorum,
        /// A round confirms reads that came in after it was sent.
        ReusedReadContext,
        /// A follower takes any answer of its leader for the one to its question.
        ReusedFollowerContext,
        /// A lease is kept while leadership is handed over.
        LeaseAfterTransfer,
        /// Followers vote though they have promised not to.
        LeaseNotHonoured,
        /// A promise to a lease counts from when the follower's clock was last read.
        PromiseByOldClock,
        /// Snapshots lack the session table.
        SnapshotWithoutSessions,
        /// Snapshots name the first members, whatever has changed.
        SnapshotWithoutConfiguration,
        /// In a joint configuration the new voters decide alone.
        JointAsSimple,
        /// Learners count as voters.
        LearnerCounts,
        /// A late AppendEntries drops entries that match.
        MatchingTailDropped,
        /// A conflicting tail stays, and is confirmed.
        StaleTailKept,
        /// A repeated write is applied again.
        AppliedTwice,
        /// A directory that is not established votes at once, below feature level 1.
        ForgetfulVoter,
        /// A message for an earlier directory of the node is taken in.
        AnyIncarnation,
        /// A vote is remembered by the node alone, whatever its directory.
        VoteByNode,
        /// A node applies some entries differently from the others.
        AppliedDifferently,
        /// Reads are answered by what is committed, before it is applied.
        ReadBeforeApplied,
        /// A snapshot is confirmed as installed before what it stands for is on disk.
        InstalledBeforeSync,
        /// A segment goes before a durable mark vouches for the one behind it.
        SegmentLetGoEarly,
        /// The log writer syncs only the newest segment.
        NewestSegmentSyncedAlone,
        /// The directory is not synced after a file got its final name.
        RenameNotSynced,
        /// A file gets its final name before its content is synced.
        RenamedUnsynced,
        /// A sender looks at the doorbell's flag before it swaps it.
        DoorbellLoadedFirst,
        /// How much of a buffer was written is forgotten when more is appended to it.
        PartialWriteForgotten,
    }

    impl Mutation {
        /// Those of the core, which its scripts show.
        pub(crate) const OF_CORE: [Mutation; 19] = [
            Mutation::VoteNotPersisted,
            Mutation::SecondVote,
            Mutation::VoteForShorterLog,
            Mutation::ReplyClaimsLogEnd,
            Mutation::OldTermByCounting,
            Mutation::VolatileLeaderIndex,
            Mutation::NoNoop,
            Mutation::ReadWithoutQuorum,
            Mutation::ReusedReadContext,
            Mutation::ReusedFollowerContext,
            Mutation::LeaseAfterTransfer,
            Mutation::LeaseNotHonoured,
            Mutation::JointAsSimple,
            Mutation::LearnerCounts,
            Mutation::MatchingTailDropped,
            Mutation::StaleTailKept,
            Mutation::ForgetfulVoter,
            Mutation::AnyIncarnation,
            Mutation::VoteByNode,
        ];
        /// Those that only whole nodes can have.
        pub(crate) const OF_NODE: [Mutation; 8] = [
            Mutation::TermNotAwaited,
            Mutation::ReplyBeforeSync,
            Mutation::SnapshotWithoutSessions,
            Mutation::SnapshotWithoutConfiguration,
            Mutation::AppliedTwice,
            Mutation::AppliedDifferently,
            Mutation::ReadBeforeApplied,
            Mutation::InstalledBeforeSync,
        ];
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    pub(crate) fn is_active(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }

    /// The bug of this thread, for those that it starts.
    pub(crate) fn active() -> Option<Mutation> {
        ACTIVE.get()
    }

    pub(crate) fn set_active(mutation: Option<Mutation>) {
        ACTIVE.set(mutation);
    }

    /// Runs seed after seed with the bug; returns whether one of them panics.
    pub(crate) fn is_found<S>(
        mutation: Mutation,
        seeds: impl IntoIterator<Item = S>,
        run: impl Fn(S),
    ) -> bool {
        seeds.into_iter().any(|seed| {
            let run = AssertUnwindSafe(|| with(mutation, || run(seed)));
            catch_unwind(run).is_err()
        })
    }

    /// Runs `f` with the bug, on this thread.
    pub(crate) fn with<T>(mutation: Mutation, f: impl FnOnce() -> T) -> T {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                ACTIVE.set(None);
            }
        }
        ACTIVE.set(Some(mutation));
        let _off = Off;
        f()
    }
}
