//! What only the leader of the control plane does by itself: it gives the cluster its id, fences brokers
//! whose session has lapsed, and moves partitions where brokers come and go.
//!
//! One worker; it sleeps until something can be due, and a lone node without other brokers never wakes. Every
//! decision becomes a command, judged like any other: a leader of the past changes nothing. Must not: fence
//! anybody while it cannot prove that it leads.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use highwater_model::NodeId;
use highwater_model::limits::{
    BALANCE_INTERVAL, FENCES_AT_ONCE_MAX, PROBE_LOOKS_MAX, PROBE_WAIT, PROBES_AT_ONCE_MAX, SESSION_CHECK_MAX,
};
use tokio::time::Instant;

use crate::core::{Command, plan_moves};
use crate::handle::{Coordinator, Seat, WriteError};
use crate::sessions::Sessions;

/// Runs for the life of a member.
pub(crate) async fn run(coordinator: Coordinator) {
    let Seat::Member { node, sessions, .. } = coordinator.seat() else { return };
    let (own, sessions) = (coordinator.settings().node_id, Arc::clone(sessions));
    let mut leadership = node.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        if now.leader == Some(own) {
            sessions.begin_term();
            tokio::select! {
                () = lead(&coordinator, &sessions) => {}
                changed = leadership.wait_for(|known| *known != now) => if changed.is_err() { return },
            }
        } else if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Until this node leads no more.
async fn lead(coordinator: &Coordinator, sessions: &Arc<Sessions>) {
    while !coordinator.settings().is_lone()
        && let Err(e) = coordinator.form().await
    {
        tracing::warn!("the cluster cannot be formed yet: {e}");
        tokio::time::sleep(SESSION_CHECK_MAX).await;
    }
    tracing::debug!("this node leads the control plane");
    let probe = probe_silent(coordinator, sessions);
    let expire = expire(coordinator, sessions);
    let balance = balance(coordinator, sessions);
    futures::future::join3(probe, expire, balance).await;
}

/// One round of moves and elections after another. Where there is but one broker nothing can move.
async fn balance(coordinator: &Coordinator, sessions: &Arc<Sessions>) {
    let mut versions = coordinator.watch();
    let settings = coordinator.settings().balance;
    loop {
        versions.mark_unchanged();
        let is_alone = coordinator.with_state(|state| state.brokers.len() < 2);
        let pause = if is_alone { Duration::from_secs(3600) } else { BALANCE_INTERVAL };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = versions.changed(), if is_alone => continue,
        }
        // Brokers that have not reported yet have no load: a plan made then would be undone.
        if !coordinator.leads_for_sure() || sessions.is_young() {
            continue;
        }
        let (state, loads, now_ms) =
            (coordinator.state(), sessions.loads(), coordinator.settings().clock.now_ms());
        let plan = move || plan_moves(&state, &loads, &settings, now_ms);
        let Ok(plan) = tokio::task::spawn_blocking(plan).await else { continue };
        for command in plan {
            tracing::info!("balance: {command:?}");
            match coordinator.write(command).await {
                // The state has moved on since the plan was made.
                Ok(_) | Err(WriteError::Refused(_)) => {}
                Err(e) => {
                    tracing::debug!("the round ends: {e}");
                    break;
                }
            }
        }
    }
}

/// Brokers that are not fenced, but for the one in this process, with their epochs.
pub(crate) fn others(coordinator: &Coordinator) -> Vec<(NodeId, u64)> {
    let own = coordinator.settings().node_id;
    coordinator.with_state(|state| {
        let active = state.brokers.values().filter(|broker| !broker.is_fenced && broker.node_id != own);
        active.map(|broker| (broker.node_id, broker.epoch)).collect()
    })
}

/// Fences whose session has lapsed.
async fn expire(coordinator: &Coordinator, sessions: &Arc<Sessions>) {
    let mut versions = coordinator.watch();
    loop {
        versions.mark_unchanged();
        sessions.follow(others(coordinator));
        let (lapsed, next) = sessions.due();
        // Who cannot prove that it leads may be the one that is cut off.
        if !lapsed.is_empty() && coordinator.leads_for_sure() {
            fence(coordinator, lapsed).await;
        }
        let now = Instant::now();
        let wake =
            next.map_or(now + Duration::from_secs(3600), |next| next.clamp(now, now + SESSION_CHECK_MAX));
        let wake = wake.max(now + Duration::from_millis(20));
        tokio::select! {
            () = tokio::time::sleep_until(wake) => {}
            _ = versions.changed() => {}
            () = sessions.changed() => {}
        }
    }
}

async fn fence(coordinator: &Coordinator, lapsed: Vec<(NodeId, u64)>) {
    for some in lapsed.chunks(FENCES_AT_ONCE_MAX) {
        let fence = |(node_id, broker_epoch): &(NodeId, u64)| {
            let (node_id, broker_epoch) = (*node_id, *broker_epoch);
            async move {
                tracing::warn!("the session of broker {node_id} has lapsed; fencing it");
                match coordinator.write(Command::FenceBroker { node_id, broker_epoch }).await {
                    Ok(_) | Err(WriteError::Refused(_)) => {}
                    Err(e) => tracing::warn!("broker {node_id} cannot be fenced yet: {e}"),
                }
            }
        };
        join_all(some.iter().map(fence)).await;
    }
}

/// At the begin of a term: a broker at whose address nobody listens need not be waited for. What killed the
/// leader before may have killed the brokers beside it.
async fn probe_silent(coordinator: &Coordinator, sessions: &Arc<Sessions>) {
    let brokers = others(coordinator);
    let silent: Vec<(NodeId, u64, String)> = coordinator.with_state(|state| {
        let address = |(node, epoch): (NodeId, u64)| {
            let broker = state.brokers.get(&node).filter(|broker| !broker.grpc.is_empty())?;
            Some((node, epoch, broker.grpc.clone()))
        };
        brokers.into_iter().filter_map(address).collect()
    });
    for some in silent.chunks(PROBES_AT_ONCE_MAX) {
        let probe = |(node, epoch, address): &(NodeId, u64, String)| {
            let (node, epoch, address) = (*node, *epoch, address.clone());
            async move {
                if nobody_listens(&address).await {
                    tracing::warn!("nobody listens at {address}: broker {node} is gone");
                    sessions.gone(node, epoch);
                }
            }
        };
        join_all(some.iter().map(probe)).await;
    }
}

/// Refused twice in a row: a process that is just being started is not taken for one that is gone. One that
/// dies may still have its door open at the first look. False where no address is known.
pub(crate) async fn nobody_listens(address: &str) -> bool {
    if address.is_empty() {
        return false;
    }
    let mut refused = 0;
    for _ in 0..PROBE_LOOKS_MAX {
        let connected = tokio::time::timeout(PROBE_WAIT, tokio::net::TcpStream::connect(address)).await;
        let is_refused = matches!(connected, Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused);
        refused = if is_refused { refused + 1 } else { 0 };
        if refused == 2 {
            return true;
        }
        tokio::time::sleep(PROBE_WAIT).await;
    }
    false
}
