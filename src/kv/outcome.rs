//! What became of an entry.

use crate::limits;

/// What applying an entry came to; every replica comes to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A put, an update, a compare-and-set or a whole batch is in the store. CREATED on the
    /// wire.
    Created,
    /// The key is gone. CREATED on the wire, as the original has it.
    Removed,
    /// A put found its key taken; nothing changed.
    KeyExists,
    /// A remove, or a compare-and-set that expected a value, did not find its key; nothing
    /// changed.
    NotFound,
    /// The store is as large as it may get; nothing changed. Final for this write:
    /// a repetition of it is answered the same.
    NoRoom,
    /// A compare-and-set found another value than it expected, or one where it expected
    /// none; nothing changed.
    Mismatch,
    /// The operation of a batch at this place, from 0 on, is the first that its key does not
    /// let through; nothing changed.
    BatchFailed(u8),
    /// A session is open under this id.
    SessionOpened(u64),
    /// The session has expired or never existed; nothing of it is ever applied again.
    SessionExpired,
    /// The write's number is further above `acked_below` than answers are kept;
    /// nothing changed. The same write is taken once `acked_below` has moved up.
    SessionWindowFull,
    /// The write's number is below what the client said it has all answers of;
    /// nothing changed, and its answer is not kept any more.
    SessionStale,
    /// The bytes are not a command that is known here; nothing changed.
    Malformed,
    /// The entry asked for nothing.
    Noop,
}

/// The code of a batch whose first operation failed; those of the others follow.
const BATCH_FAILED: u8 = 0x80;

const _: () = assert!(
    limits::BATCH_OPERATIONS_MAX <= 1 << 7,
    "a byte names the operation that failed"
);

impl Outcome {
    /// The byte under which session tables remember the outcome of a write, none
    /// for what is not remembered. Part of the snapshot format; never 0.
    pub(super) fn to_code(self) -> Option<u8> {
        match self {
            Outcome::Created => Some(1),
            Outcome::Removed => Some(2),
            Outcome::KeyExists => Some(3),
            Outcome::NotFound => Some(4),
            Outcome::NoRoom => Some(5),
            Outcome::Mismatch => Some(6),
            Outcome::BatchFailed(at) => {
                let code = BATCH_FAILED.checked_add(at);
                Some(code.expect("a batch has no more operations than codes"))
            }
            Outcome::SessionOpened(_)
            | Outcome::SessionExpired
            | Outcome::SessionWindowFull
            | Outcome::SessionStale
            | Outcome::Malformed
            | Outcome::Noop => None,
        }
    }

    /// The outcome that [`Outcome::to_code`] wrote as `code`.
    pub(super) fn from_code(code: u8) -> Option<Outcome> {
        match code {
            1 => Some(Outcome::Created),
            2 => Some(Outcome::Removed),
            3 => Some(Outcome::KeyExists),
            4 => Some(Outcome::NotFound),
            5 => Some(Outcome::NoRoom),
            6 => Some(Outcome::Mismatch),
            BATCH_FAILED.. => Some(Outcome::BatchFailed(code - BATCH_FAILED)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_the_outcome_that_has_it_and_no_other() {
        let mut known = 0;
        for code in 0..=u8::MAX {
            if let Some(outcome) = Outcome::from_code(code) {
                assert_eq!(outcome.to_code(), Some(code));
                known += 1;
            }
        }
        assert_eq!(known, 6 + limits::BATCH_OPERATIONS_MAX);
        assert_eq!(Outcome::BatchFailed(127).to_code(), Some(u8::MAX));
    }
}
