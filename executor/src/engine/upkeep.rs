//! What keeping house needs of an engine: everything there is, and the room it takes.
//!
//! Apart from [`Engine`](super::Engine), which asks for what one plan names. Nothing here changes
//! anything.

use std::collections::BTreeMap;

use bottle_planner::cleanup::{Image, Labelled, Sized};
use bottle_planner::snapshot::Container;

use super::EngineError;

/// Everything on an engine that a clean-up can concern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// All containers by name.
    pub containers: BTreeMap<String, Sized<Container>>,
    /// All networks by name.
    pub networks: BTreeMap<String, Labelled>,
    /// The labels of all volumes by name.
    pub volumes: BTreeMap<String, Sized<BTreeMap<String, String>>>,
    /// The images that bear an owner's label.
    pub images: Vec<Sized<Image>>,
}

/// An engine that can say what there is.
#[expect(async_fn_in_trait, reason = "used through generics, on one thread; no `Send` needed")]
pub trait Upkeep {
    /// All containers, networks and volumes, whoever's, and the images with the label of `owner`;
    /// sizes of what is this owner's, where the engine tells.
    async fn inventory(&self, owner: &str) -> Result<Inventory, EngineError>;
}
