//! The listening socket: accepts, counts, and turns away what is over the limits.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_model::limits::CONNECTIONS_PER_ADDRESS_MAX;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::connection::Connection;
use crate::metrics::RefusedKind;
use crate::node::Node;

/// Pause after accept failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections by address.
#[derive(Default)]
struct Census {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Census {
    fn admit(&mut self, peer: IpAddr, total_max: usize) -> bool {
        let of_peer = self.by_address.get(&peer).copied().unwrap_or(0);
        if self.total >= total_max || of_peer >= CONNECTIONS_PER_ADDRESS_MAX {
            return false;
        }
        self.total += 1;
        self.by_address.insert(peer, of_peer + 1);
        true
    }

    fn leave(&mut self, peer: IpAddr) {
        self.total -= 1;
        if let Some(count) = self.by_address.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&peer);
            }
        }
    }
}

/// A place among the connections; given back when dropped.
struct Seat {
    census: Arc<Mutex<Census>>,
    node: Arc<Node>,
    peer: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.census.lock().unwrap_or_else(PoisonError::into_inner).leave(self.peer);
        self.node.metrics.connections.dec();
    }
}

/// Serves Kafka clients on `listener` until the node stops, then lets requests in flight finish within
/// `drain_timeout_ms`.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let mut stop = node.stopping();
    let census = Arc::new(Mutex::new(Census::default()));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => admit(&node, &census, &mut connections, stream, address),
                Err(e) => {
                    accept_failed(&e).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            // The guard of the value must not live across the awaits of the other arms.
            () = async { drop(stop.wait_for(|stopping| *stopping).await) } => break,
        }
    }
    drop(listener);
    let drain = Duration::from_millis(node.settings.drain_timeout_ms);
    let drained =
        tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "connections were cut: their requests took too long");
        connections.shutdown().await;
    }
}

fn admit(
    node: &Arc<Node>,
    census: &Arc<Mutex<Census>>,
    connections: &mut JoinSet<()>,
    stream: TcpStream,
    address: SocketAddr,
) {
    let peer = address.ip();
    let total_max = node.settings.connections_max;
    if !census.lock().unwrap_or_else(PoisonError::into_inner).admit(peer, total_max) {
        node.metrics.refused(RefusedKind::Connection);
        node.refusals.closed(peer, &"too many connections");
        return;
    }
    node.metrics.connections.inc();
    node.metrics.connections_opened.inc();
    let seat = Seat { census: census.clone(), node: node.clone(), peer };
    // Without it small answers wait for the client's delayed acknowledgement; a failure costs only that.
    let _ = stream.set_nodelay(true);
    let connection = Connection::new(node.clone(), stream, peer, node.stopping());
    connections.spawn(async move {
        let _seat = seat;
        connection.run().await;
    });
}

async fn accept_failed(e: &io::Error) {
    if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!("cannot accept a connection: {e}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_in_all_and_by_address() {
        let mut census = Census::default();
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!(census.admit(a, 2) && census.admit(b, 2) && !census.admit(b, 2));
        census.leave(a);
        assert!(census.admit(b, 2));
        census.leave(b);
        census.leave(b);
        assert!(census.by_address.is_empty() && census.total == 0);
        for _ in 0..CONNECTIONS_PER_ADDRESS_MAX {
            assert!(census.admit(a, usize::MAX));
        }
        assert!(!census.admit(a, usize::MAX) && census.admit(b, usize::MAX));
    }
}
