//! ApiVersions (KIP-35, KIP-511): exactly what is served, and nothing else. The feature `transaction.version`
//! is finalized at 2: by it clients bump their epoch with each transaction (KIP-890).

use std::sync::Arc;

use highwater_groups::core::txn::ClientVersion;
use highwater_wire::api;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use highwater_wire::kafka::messages::{ApiVersionsRequest, ApiVersionsResponse};
use highwater_wire::kafka::protocol::StrBytes;

use crate::node::Node;

const NAMED_CLIENTS_SINCE: i16 = 3;
const FEATURES_SINCE: i16 = 3;
const FEATURES_FROM_ZERO_SINCE: i16 = 4;
/// Features never change while a node runs, and so neither does their epoch.
const FEATURES_EPOCH: i64 = 0;
const TRANSACTION_VERSION: &str = "transaction.version";

pub async fn handle(_node: &Arc<Node>, version: i16, request: ApiVersionsRequest) -> ApiVersionsResponse {
    respond(version, &request)
}

fn respond(version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    let is_named =
        is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version);
    if version >= NAMED_CLIENTS_SINCE && !is_named {
        return ApiVersionsResponse::default().with_error_code(ResponseError::InvalidRequest.code());
    }
    let response = ApiVersionsResponse::default().with_api_keys(served());
    match version >= FEATURES_SINCE {
        true => with_features(version, response),
        false => response,
    }
}

/// Below version 4 a feature that begins at 0 is left out of what is supported (KAFKA-17011).
fn with_features(version: i16, response: ApiVersionsResponse) -> ApiVersionsResponse {
    let name = || StrBytes::from_static_str(TRANSACTION_VERSION);
    let (min, max) = (ClientVersion::V0 as i16, ClientVersion::V2 as i16);
    let supported =
        SupportedFeatureKey::default().with_name(name()).with_min_version(min).with_max_version(max);
    let finalized = FinalizedFeatureKey::default()
        .with_name(name())
        .with_min_version_level(max)
        .with_max_version_level(max);
    let supported = if version >= FEATURES_FROM_ZERO_SINCE { vec![supported] } else { Vec::new() };
    response
        .with_supported_features(supported)
        .with_finalized_features(vec![finalized])
        .with_finalized_features_epoch(FEATURES_EPOCH)
}

/// The table of what is served, as clients read it.
pub fn served() -> Vec<ApiVersion> {
    let entry = |range: &api::ApiRange| {
        ApiVersion::default()
            .with_api_key(range.key)
            .with_min_version(range.advertised_min)
            .with_max_version(range.max)
    };
    api::SERVED.iter().map(entry).collect()
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`, as KIP-511 has it.
fn is_software_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &'static str, version: &'static str) -> ApiVersionsRequest {
        ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(name))
            .with_client_software_version(StrBytes::from_static_str(version))
    }

    #[test]
    fn what_is_served_is_listed_and_names_are_checked_from_version_3() {
        let answer = respond(4, &named("librdkafka", "2.15.0"));
        assert_eq!(answer.error_code, 0);
        assert_eq!(answer.api_keys.len(), api::SERVED.len());
        let finalized: Vec<_> = answer.finalized_features.iter().map(|f| f.max_version_level).collect();
        assert_eq!((finalized, answer.finalized_features_epoch), (vec![2], 0));
        assert_eq!(answer.supported_features.len(), 1);
        assert!(respond(3, &named("x", "1")).supported_features.is_empty());
        assert!(respond(2, &named("x", "1")).finalized_features.is_empty());
        for bad in ["", "-a", "a b", "a\n", "a-"] {
            assert_eq!(respond(3, &named(bad, "1")).error_code, 42, "{bad:?}");
            assert_eq!(respond(3, &named("x", bad)).error_code, 42, "{bad:?}");
            assert_eq!(respond(2, &named(bad, "1")).error_code, 0, "{bad:?}");
        }
    }
}
