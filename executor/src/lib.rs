//! Everything of `bottle` that touches the world.
