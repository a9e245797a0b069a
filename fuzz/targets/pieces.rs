//! How inputs are cut.

/// Cuts bytes into pieces. Of the seed, 0 leaves them whole, up to 127 is the size of each piece, and
/// what is above makes the sizes vary.
pub fn cut(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = match seed {
            0 => rest.len(),
            1..128 => usize::from(seed),
            _ => {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                1 + (state >> 16) as usize % 40
            }
        };
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}
