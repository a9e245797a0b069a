//! The harness shared by the tests of `bottle`.
