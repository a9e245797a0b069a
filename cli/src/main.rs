//! The `bottle` command line.

fn main() {}
