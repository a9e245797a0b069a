//! What runs inside the containers of `bottle`.
