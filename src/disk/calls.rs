//! Where a test makes a call of the disk's threads to the system fail, or do only a part
//! of what it was asked for.
//!
//! Outside of unit tests both functions do nothing, and the compiler drops them.

use std::io;

/// To be asked before each call.
///
/// # Errors
/// What the call is to fail with.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn before(_call: &'static str) -> io::Result<()> {
    Ok(())
}

/// To be asked before a call that may do a part of its work: how much of `len` bytes.
///
/// # Errors
/// What the call is to fail with.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn some(_call: &'static str, len: usize) -> io::Result<usize> {
    Ok(len)
}

#[cfg(test)]
pub(super) use self::plan::{How, Plan, before, some};

/// Writes all of `data`, whatever parts the system takes it in. A signal in between is no
/// failure.
pub(super) fn write_all(
    data: &[u8],
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut left = data;
    while !left.is_empty() {
        match some("write", left.len()).and_then(|len| write(&left[..len])) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod plan {
    use std::cell::RefCell;
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    /// How a call goes wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::disk) enum How {
        /// With this error number.
        Error(i32),
        /// It does one byte, if it can.
        Short,
    }

    /// Which call goes wrong, and all that were made.
    #[derive(Debug)]
    pub(in crate::disk) struct Plan {
        at: usize,
        how: How,
        made: Mutex<Vec<&'static str>>,
    }

    thread_local! {
        static PLAN: RefCell<Option<Arc<Plan>>> = const { RefCell::new(None) };
    }

    impl Plan {
        /// Call number `at` of this thread and of those of disks that it opens goes wrong.
        pub(in crate::disk) fn begin(at: usize, how: How) -> Arc<Plan> {
            let plan = Arc::new(Plan {
                at,
                how,
                made: Mutex::default(),
            });
            Plan::adopt(Some(plan.clone()));
            plan
        }

        /// From now on this thread's calls count, or do not.
        pub(in crate::disk) fn adopt(plan: Option<Arc<Plan>>) {
            PLAN.set(plan);
        }

        pub(in crate::disk) fn current() -> Option<Arc<Plan>> {
            PLAN.with_borrow(Clone::clone)
        }

        /// The calls that were made, the one that went wrong among them.
        pub(in crate::disk) fn made(&self) -> Vec<&'static str> {
            self.made
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }

        fn count(&self, call: &'static str) -> Option<How> {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.push(call);
            (made.len() - 1 == self.at).then_some(self.how)
        }
    }

    pub(in crate::disk) fn before(call: &'static str) -> io::Result<()> {
        some(call, 1).map(|_| ())
    }

    pub(in crate::disk) fn some(call: &'static str, len: usize) -> io::Result<usize> {
        match Plan::current().and_then(|plan| plan.count(call)) {
            Some(How::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(How::Short) => Ok(len.min(1)),
            None => Ok(len),
        }
    }
}
