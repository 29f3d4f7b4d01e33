//! Helpers of the whole-cluster tests.
