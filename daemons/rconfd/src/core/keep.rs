//! How long an old configuration is served when there is no new one (`spec/confd.md` §4). Pure.

/// A configuration whose successor can't be read is served for so long, ms; then none is.
pub const STALE_MS_MAX: u64 = 60_000;

/// Whether what is served may go on being served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    failing: Option<u64>,
}

impl Keep {
    /// The files were read.
    pub fn good(&mut self) {
        self.failing = None;
    }

    /// They could not be read at `now`. Whether this is news.
    pub fn bad(&mut self, now: u64) -> bool {
        let first = self.failing.is_none();
        self.failing.get_or_insert(now);
        first
    }

    /// Whether an older configuration may be served.
    #[must_use]
    pub fn may_serve(&self, now: u64) -> bool {
        self.failing.is_none_or(|since| now.saturating_sub(since) < STALE_MS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_from_the_first_failure_on() {
        let mut keep = Keep::default();
        assert!(keep.may_serve(1_000_000));
        assert!(keep.bad(5_000) && !keep.bad(30_000));
        assert!(keep.may_serve(64_999) && !keep.may_serve(65_000));
        keep.good();
        assert!(keep.may_serve(70_000) && keep.bad(80_000) && keep.may_serve(81_000));
    }
}
