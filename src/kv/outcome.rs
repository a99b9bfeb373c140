//! What became of an entry.

/// What applying an entry came to; every replica comes to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A put or an update is in the store. CREATED on the wire.
    Created,
    /// The key is gone. CREATED on the wire, as the original has it.
    Removed,
    /// A put found its key taken; nothing changed.
    KeyExists,
    /// A remove did not find its key; nothing changed.
    NotFound,
    /// The store is as large as it may get; nothing changed. Final for this write:
    /// a repetition of it is answered the same.
    NoRoom,
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
            _ => None,
        }
    }
}
