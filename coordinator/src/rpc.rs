//! gRPC between nodes: the generated messages, the versions of the protocol, and the connections to the
//! coordinators.
//!
//! Every call has a deadline, every connection is probed while it is idle, so that a partition that has
//! healed does not leave a dead one behind. Must not: decide anything; know Raft. Invariant 16.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use highwater_model::NodeId;
use highwater_model::limits::{
    PEER_CONNECT_TIMEOUT, PEER_KEEPALIVE, PEER_KEEPALIVE_TIMEOUT, PEER_MESSAGE_BYTES_MAX,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use uuid::Uuid;

/// Messages and services of package `highwater.v1`, generated from `proto/highwater/v1/control.proto`.
#[allow(clippy::large_enum_variant)]
pub mod proto {
    tonic::include_proto!("highwater.v1");
}

use proto::control_client::ControlClient;
use proto::coordination_client::CoordinationClient;

/// The protocol that this release speaks, and the oldest that it understands: one release back.
pub const PROTOCOL: u32 = 1;
/// See [`PROTOCOL`].
pub const PROTOCOL_MIN: u32 = 1;
/// Has a process behave as another release, `OLDEST-NEWEST`, so that tests can mix them.
const TEST_PROTOCOL: &str = "HIGHWATER_TEST_PROTOCOL";

/// Oldest and newest protocol that this process understands.
fn protocols() -> (u32, u32) {
    static PROTOCOLS: OnceLock<(u32, u32)> = OnceLock::new();
    *PROTOCOLS.get_or_init(|| {
        let told = std::env::var(TEST_PROTOCOL).ok();
        let parsed = told.and_then(|told| {
            let (oldest, newest) = told.split_once('-')?;
            Some((oldest.parse().ok()?, newest.parse().ok()?))
        });
        parsed.unwrap_or((PROTOCOL_MIN, PROTOCOL))
    })
}

/// What a greeting says: the newest protocol that this process speaks.
pub fn protocol() -> u32 {
    protocols().1
}

/// The oldest that it understands; and what it sends by, where a message has one number only: a peer one
/// release behind reads that too.
pub fn protocol_min() -> u32 {
    protocols().0
}

/// Whether a peer of protocol `newest`, which understands `oldest` and later, can be talked to; else why not.
///
/// # Errors
/// One line that says what to do.
pub(crate) fn check_protocol(who: &str, newest: u32, oldest: u32) -> Result<(), String> {
    // A peer that leaves the fields out is a client of the first version.
    let (newest, oldest) = (newest.max(1), oldest.max(1));
    let (own_oldest, own_newest) = protocols();
    if newest >= own_oldest && oldest <= own_newest {
        return Ok(());
    }
    let older = if newest < own_oldest { who } else { "this node" };
    Err(format!(
        "{who} speaks protocol {oldest} to {newest}, this release {own_oldest} to {own_newest}; \
         upgrade {older} (releases that follow each other can be mixed)"
    ))
}

/// The same of a node that says only the protocol that it speaks: it understands the one before, too.
///
/// # Errors
/// One line that says what to do.
pub(crate) fn check_client(node: NodeId, protocol: u32) -> Result<(), String> {
    check_protocol(&format!("node {node}"), protocol, protocol.saturating_sub(1))
}

/// The coordinators' list as `--coordinators` writes it.
pub(crate) fn list_text(list: &BTreeMap<NodeId, String>) -> String {
    list.iter().map(|(id, address)| format!("{id}={address}")).collect::<Vec<_>>().join(",")
}

pub(crate) fn list_of(coordinators: &[proto::Coordinator]) -> BTreeMap<NodeId, String> {
    coordinators.iter().map(|c| (c.id, c.address.clone())).collect()
}

pub(crate) fn list_message(list: &BTreeMap<NodeId, String>) -> Vec<proto::Coordinator> {
    list.iter().map(|(id, address)| proto::Coordinator { id: *id, address: address.clone() }).collect()
}

pub(crate) fn uuid_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// None unless the bytes are a UUID.
pub(crate) fn uuid_of(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok()
}

/// Connections to a set of nodes, made when they are first needed and kept.
pub(crate) struct Channels {
    addresses: BTreeMap<NodeId, String>,
    /// Of nodes that the list does not name.
    learned: Mutex<BTreeMap<NodeId, String>>,
    open: Mutex<BTreeMap<NodeId, Channel>>,
}

impl Channels {
    pub(crate) fn new(addresses: BTreeMap<NodeId, String>) -> Channels {
        Channels { addresses, learned: Mutex::default(), open: Mutex::default() }
    }

    /// Where a node is that the list does not name.
    pub(crate) fn learn(&self, node: NodeId, address: &str) {
        if self.addresses.contains_key(&node) || address.is_empty() {
            return;
        }
        let learned = &self.learned;
        let before = learned.lock().unwrap_or_else(PoisonError::into_inner).insert(node, address.to_owned());
        // One lock at a time: `channel` takes them the other way round.
        if before.is_none_or(|before| before != address) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        }
    }

    pub(crate) fn addresses(&self) -> &BTreeMap<NodeId, String> {
        &self.addresses
    }

    pub(crate) fn address(&self, node: NodeId) -> &str {
        self.addresses.get(&node).map_or("", String::as_str)
    }

    /// The way to a node; it connects with the first call and again whenever it must.
    pub(crate) fn channel(&self, node: NodeId) -> Result<Channel, Status> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(&node) {
            return Ok(channel.clone());
        }
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned();
        let address = self.addresses.get(&node).cloned().or(learned);
        let address = address.ok_or_else(|| Status::not_found(format!("no coordinator has id {node}")))?;
        let channel = endpoint(&address)?.connect_lazy();
        open.insert(node, channel.clone());
        Ok(channel)
    }

    pub(crate) fn control(&self, node: NodeId) -> Result<ControlClient<Channel>, Status> {
        let client = ControlClient::new(self.channel(node)?);
        Ok(client
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }

    pub(crate) fn coordination(&self, node: NodeId) -> Result<CoordinationClient<Channel>, Status> {
        let client = CoordinationClient::new(self.channel(node)?);
        Ok(client
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX))
    }
}

/// How nodes connect to each other.
pub fn endpoint(address: &str) -> Result<Endpoint, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| Status::invalid_argument(format!("{address}: {e}")))?;
    Ok(endpoint
        .connect_timeout(PEER_CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PEER_KEEPALIVE)
        .keep_alive_timeout(PEER_KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// A request with a deadline, which goes with it to the peer.
pub(crate) fn timed<T>(message: T, wait: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(wait);
    request
}

/// Runs a call that must end within `wait`, whatever the peer or the connection does.
pub(crate) async fn within<R>(
    wait: Duration,
    call: impl Future<Output = Result<tonic::Response<R>, Status>>,
) -> Result<R, Status> {
    match tokio::time::timeout(wait, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// True where the call cannot have reached the peer: there was no connection to carry it.
pub(crate) fn never_sent(status: &Status) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What a failed call says, in one line.
pub(crate) fn brief(status: &Status) -> String {
    let mut text = status.message().lines().next().unwrap_or_default().to_owned();
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    match (text.is_empty(), status.code()) {
        (true, code) => code.description().to_owned(),
        (false, Code::DeadlineExceeded) => format!("timed out ({text})"),
        (false, _) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_releases_talk_and_others_are_told_what_to_do() {
        assert_eq!(check_protocol("node 2", PROTOCOL, PROTOCOL_MIN), Ok(()));
        assert_eq!(check_protocol("node 2", PROTOCOL + 1, PROTOCOL), Ok(()), "one release ahead");
        assert_eq!(check_protocol("node 2", 0, 0), Ok(()), "a client that does not say");
        let ahead = check_protocol("node 2", PROTOCOL + 2, PROTOCOL + 1).expect_err("too far ahead");
        assert!(ahead.contains("upgrade this node") && ahead.lines().count() == 1, "{ahead}");
    }

    #[tokio::test]
    async fn a_call_without_a_connection_was_never_sent() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let channels = Channels::new([(1, address)].into());
        let mut client = channels.control(1).expect("an address");
        let call = client.describe_group(proto::DescribeGroupRequest {});
        let refused = within(Duration::from_secs(60), call).await.expect_err("nobody listens");
        assert!(never_sent(&refused), "{refused:?}");
        assert!(!brief(&refused).is_empty());
        assert!(channels.control(2).is_err());
        assert!(!never_sent(&Status::unavailable("the peer said so")));
    }
}
