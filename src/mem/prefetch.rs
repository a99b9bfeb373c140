//! A hint to the processor.

/// Says that the first bytes of `bytes` are needed soon, so that their cache line is
/// fetched while the program goes on. Changes nothing that it can see; where there is no
/// such instruction to be had, nothing happens.
#[inline(always)]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, whatever the address; and this one can be read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = bytes;
}
