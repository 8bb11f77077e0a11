//! From a frame to its handler: the request's head, the table of what is served, and the check of the body's
//! shape that stands before the generated decoders (docs/adr/0001).
//!
//! Must not decode a body. Invariant 13: whatever the bytes, the outcome is an answer or a reason to close.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use highwater_wire::frame::RequestHead;
use highwater_wire::{api, shape};

use crate::handlers;
use crate::metrics::RefusedKind;
use crate::net::reply::{Answer, CloseReason};
use crate::node::Node;

/// Begins the request in `frame` (without its length prefix); also tells its API key, -1 if there is none.
pub fn begin(node: &Arc<Node>, peer: IpAddr, frame: Bytes) -> (i16, Answer) {
    let head = match RequestHead::parse(&frame) {
        Ok(head) => head,
        Err(e) => return (-1, refuse(node, RefusedKind::Frame, format!("bad request header: {e}"))),
    };
    (head.api_key, begin_request(node, peer, &head, frame))
}

fn begin_request(node: &Arc<Node>, peer: IpAddr, head: &RequestHead, frame: Bytes) -> Answer {
    let (key, version) = (head.api_key, head.api_version);
    let Some(range) = api::find(key) else {
        return refuse(node, RefusedKind::Api, format!("API key {key} is not served"));
    };
    if !range.serves(version) {
        node.metrics.refused(RefusedKind::Version);
        if key == api::API_VERSIONS {
            return match handlers::unsupported_api_versions(head.correlation_id) {
                Ok(reply) => Answer::Now(reply),
                Err(reason) => Answer::Close(reason),
            };
        }
        let (name, min, max) = (range.name, range.min, range.max);
        let text = format!("{name} version {version} is not served ({min} to {max} are)");
        return Answer::Close(CloseReason::new(text));
    }
    let body = frame.slice(head.body_offset..);
    if let Err(e) = shape::check(key, version, &body) {
        return refuse(
            node,
            RefusedKind::Shape,
            format!("malformed {} request, version {version}: {e}", range.name),
        );
    }
    handlers::begin(node, peer, head, body)
}

fn refuse(node: &Node, kind: RefusedKind, text: String) -> Answer {
    node.metrics.refused(kind);
    Answer::Close(CloseReason::new(text))
}
