//! The rules of P4 that a test may take away to see that its promise rests on them.

/// Which rules hold. Production can only build [`Rules::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "a switch per rule, turned by tests only")]
pub struct Rules {
    /// Go is said only after `running` is durable (P4.2).
    pub(super) go_after_stored: bool,
    /// What a start says counts only while it is the current one (P4.4, P4.6).
    pub(super) current_start_only: bool,
    /// A spool file is deleted only after what it says is durable (P4.6).
    pub(super) clean_after_stored: bool,
    /// Replies and answers wait for the commit of what they show (P1.5).
    pub(super) show_committed_only: bool,
    /// A job hears that its report is stored only when it is: it ends its lease then (P4.4, I6).
    pub(super) confirm_after_stored: bool,
    /// A lease is asked for only after its uuid is stored with its attempt (C3).
    pub(super) grab_after_stored: bool,
    /// A lease is ended only after what became of its attempt is durable (P1.13, I6).
    pub(super) end_lease_after_stored: bool,
    /// A result counts only while its attempt is the current one and the task not final (P5.7, I6, I7).
    pub(super) current_attempt_only: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Self = Self {
        go_after_stored: true,
        current_start_only: true,
        clean_after_stored: true,
        show_committed_only: true,
        confirm_after_stored: true,
        grab_after_stored: true,
        end_lease_after_stored: true,
        current_attempt_only: true,
    };
}

/// A rule to take away.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    GoAfterStored,
    CurrentStartOnly,
    CleanAfterStored,
    ShowCommittedOnly,
    ConfirmAfterStored,
    GrabAfterStored,
    EndLeaseAfterStored,
    CurrentAttemptOnly,
}

#[cfg(test)]
impl Rules {
    pub(super) fn without(mut self, rule: Rule) -> Self {
        match rule {
            Rule::GoAfterStored => self.go_after_stored = false,
            Rule::CurrentStartOnly => self.current_start_only = false,
            Rule::CleanAfterStored => self.clean_after_stored = false,
            Rule::ShowCommittedOnly => self.show_committed_only = false,
            Rule::ConfirmAfterStored => self.confirm_after_stored = false,
            Rule::GrabAfterStored => self.grab_after_stored = false,
            Rule::EndLeaseAfterStored => self.end_lease_after_stored = false,
            Rule::CurrentAttemptOnly => self.current_attempt_only = false,
        }
        self
    }
}
