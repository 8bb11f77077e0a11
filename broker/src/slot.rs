//! Where the node will be: the doors that are up before it look here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use highwater_coordinator::Coordinator;

use crate::node::Node;
use crate::status;

/// Empty until the node is there. Clones are the same slot.
#[derive(Clone, Default)]
pub struct Slot {
    node: Arc<OnceLock<Arc<Node>>>,
    /// The coordinator of a process that is no broker, once it is up.
    seated: Arc<OnceLock<Coordinator>>,
    is_stopping: Arc<AtomicBool>,
}

impl Slot {
    /// A slot with its node.
    pub fn of(node: Arc<Node>) -> Slot {
        let slot = Slot::default();
        slot.fill(node);
        slot
    }

    pub fn get(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// Puts the node in its place; a second one is ignored.
    pub fn fill(&self, node: Arc<Node>) {
        let _ = self.node.set(node);
    }

    /// This process is a coordinator alone, and is up.
    pub fn seat(&self, coordinator: Coordinator) {
        let _ = self.seated.set(coordinator);
    }

    /// The coordinator of a process that is no broker.
    pub fn seated(&self) -> Option<&Coordinator> {
        self.seated.get()
    }

    pub fn begin_stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Why this process cannot serve right now, if so.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Some("the node is stopping");
        }
        match self.get() {
            Some(node) => status::not_ready(node),
            None if self.seated().is_some() => None,
            None => Some("the node is starting"),
        }
    }
}
