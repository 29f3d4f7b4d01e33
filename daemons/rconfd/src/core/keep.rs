//! How long an old configuration is served when there is no new one (`spec/confd.md` §4). Pure.

/// A configuration is served for so long after the files were last seen to be good, ms; then none is. Longer than three looks
/// of [`super::pace::LOOK_MS_MAX`], so that one that is late changes nothing.
pub const STALE_MS_MAX: u64 = 60_000;

/// Until when what is served may go on being served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    until: u64,
    failing: bool,
}

impl Keep {
    /// The files were good at `now`, before they were read.
    pub fn good(&mut self, now: u64) {
        self.until = now + STALE_MS_MAX;
        self.failing = false;
    }

    /// They could not be read. Whether this is news.
    pub fn bad(&mut self) -> bool {
        !std::mem::replace(&mut self.failing, true)
    }

    /// When an older configuration may not be served any more; 0 = there never was one.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.until
    }

    /// Whether it may be.
    #[must_use]
    pub fn may_serve(&self, now: u64) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_from_the_last_good_look_on() {
        let mut keep = Keep::default();
        assert!(!keep.may_serve(0));
        keep.good(5_000);
        assert!(keep.bad() && !keep.bad());
        assert!(keep.may_serve(64_999) && !keep.may_serve(65_000));
        keep.good(70_000);
        assert!(keep.may_serve(70_000) && keep.bad() && keep.may_serve(81_000));
        assert_eq!(keep.until(), 130_000);
    }
}
