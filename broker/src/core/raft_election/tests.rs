//! Who stands, who promises its vote, and who counts as gone.

use super::*;

const SILENT: i64 = RAFT_SILENT_MS;

fn members() -> Members {
    Members::of_voters([(1, 1), (2, 2), (3, 3)].into())
}

fn view(members: &Members, me: u64, leader: Option<u64>) -> View<'_> {
    let mut led = Led::default();
    led.sent(1);
    View { me, node: me, seed: 7, members, leader, term: 1, last: None, led, voted_at_ms: -10_000 }
}

/// The leader's last entry was taken then.
fn led_at(now_ms: i64, mut view: View<'_>) -> View<'_> {
    view.led.taken(now_ms);
    view
}

fn said(boot: u64, unheard: &[u64]) -> Greeting {
    Greeting { boot, unheard: unheard.iter().copied().collect() }
}

fn peers(now_ms: i64, nodes: &[u64]) -> Peers {
    let mut peers = Peers::default();
    for node in nodes {
        assert!(!peers.heard(now_ms, *node, said(1, &[])), "the first that is heard of it");
    }
    peers
}

#[test]
fn nobody_stands_while_the_leader_lives() {
    let members = members();
    let mut candidacy = Candidacy::default();
    let mut peers = peers(0, &[1, 3]);
    assert!(!candidacy.stands(SILENT - 1, &view(&members, 2, Some(1)), &peers));
    assert!(!peers.heard(SILENT, 1, said(1, &[])), "the same start");
    for now in (0..SILENT).step_by(100) {
        assert!(!candidacy.stands(SILENT + now, &view(&members, 2, Some(1)), &peers));
    }
    assert!(!Candidacy::default().stands(9, &view(&members, 2, Some(2)), &peers), "it leads itself");
}

#[test]
fn candidates_come_one_after_another() {
    let members = members();
    let peers = peers(0, &[2, 3]);
    let mut first = Vec::new();
    for me in [2, 3] {
        let mut candidacy = Candidacy::default();
        let stands = |now: &i64| candidacy.stands(*now, &view(&members, me, Some(1)), &peers);
        first.push((0..5_000).find(stands).expect("stands in the end"));
    }
    first.sort_unstable();
    assert_eq!(first[1] - first[0], RAFT_CANDIDATE_STEP_MS);
}

#[test]
fn a_candidate_leaves_an_election_time_and_a_learner_never_stands() {
    let members = members();
    let peers = peers(0, &[2]);
    let mut candidacy = Candidacy::default();
    let at = (0..5_000).find(|now| candidacy.stands(*now, &view(&members, 2, None), &peers)).expect("stands");
    candidacy.elects(at, &view(&members, 2, None));
    let again = (at + 1..at + 9_000).find(|now| candidacy.stands(*now, &view(&members, 2, None), &peers));
    assert!(again.expect("tries again") >= at + RAFT_LEASE_MS as i64);
    let mut learner = Candidacy::default();
    assert!((0..9_000).all(|now| !learner.stands(now, &view(&members, 9, None), &peers)));
}

#[test]
fn a_vote_is_promised_only_where_it_unseats_nobody() {
    let members = members();
    let id = |term, index| Some(EntryId { term, leader: 1, index });
    let ask = Ask { candidate: 2, last: id(1, 5) };
    let mut all = peers(0, &[1, 2]);
    assert!(!would_vote(9, &ask, &view(&members, 3, Some(1)), &all), "the leader is heard");
    all.lost(1);
    assert!(would_vote(9, &ask, &view(&members, 3, Some(1)), &all));
    let lately = led_at(0, view(&members, 3, Some(1)));
    assert!(!would_vote(9, &ask, &lately, &all), "openraft's lease");
    let longer = View { last: id(1, 6), ..view(&members, 3, Some(1)) };
    assert!(!would_vote(9, &ask, &longer, &all), "it would lose entries");
    assert!(!would_vote(9, &ask, &view(&members, 3, Some(3)), &all), "it leads itself");
    let returned = Ask { candidate: 1, last: None };
    assert!(would_vote(9, &returned, &view(&members, 3, Some(1)), &peers(0, &[1])), "the leader itself asks");
}

#[test]
fn two_that_stood_at_once_do_not_do_so_again() {
    let members = members();
    let peers = peers(0, &[2, 3]);
    let next = |me| {
        let mut candidacy = Candidacy { tries: 1, ..Candidacy::default() };
        candidacy.elects(0, &view(&members, me, None));
        candidacy.next_try_ms
    };
    let mut tries = [next(1), next(2), next(3)];
    tries.sort_unstable();
    assert!(tries.windows(2).all(|pair| pair[1] - pair[0] >= 3 * RAFT_CANDIDATE_STEP_MS), "{tries:?}");
    assert!(tries[0] >= RAFT_LEASE_MS as i64);
    let stood = View { voted_at_ms: 0, ..view(&members, 3, None) };
    assert!(!would_vote(1, &Ask { candidate: 2, last: None }, &stood, &peers), "it stands itself");
}

#[test]
fn who_has_voted_leaves_that_candidate_time() {
    let members = members();
    let peers = peers(0, &[1, 2]);
    let lease = RAFT_LEASE_MS as i64;
    let voted = View { voted_at_ms: 0, ..view(&members, 3, None) };
    let ask = Ask { candidate: 1, last: None };
    let mut candidacy = Candidacy::default();
    assert!((0..lease).all(|now| !candidacy.stands(now, &voted, &peers)));
    assert!(!would_vote(lease - 1, &ask, &voted, &peers));
    assert!(would_vote(lease, &ask, &voted, &peers), "it did not come to lead");
    assert!(candidacy.stands(lease, &voted, &peers));
}

#[test]
fn a_majority_is_one_of_every_set() {
    let mut members = members();
    assert!(is_majority(&members, &[1, 2].into()) && !is_majority(&members, &[2, 9].into()));
    members.voters.push([1, 4, 5].into());
    assert!(!is_majority(&members, &[1, 2].into()) && is_majority(&members, &[1, 2, 4].into()));
    assert!(!is_majority(&Members::default(), &[1].into()));
    let members = self::members();
    assert!(!view(&members, 1, Some(1)).hears_majority(0, &peers(0, &[])));
    assert!(view(&members, 1, Some(1)).hears_majority(0, &peers(0, &[3])));
    assert!(!view(&members, 1, Some(1)).hears_majority(SILENT, &peers(0, &[3])));
}

#[test]
fn a_node_that_started_anew_is_told_apart() {
    let mut peers = peers(0, &[4]);
    assert!(!peers.heard(5, 4, said(1, &[])) && peers.heard(6, 4, said(2, &[])));
    peers.lost(4);
    assert!(!peers.is_alive(7, 4));
    peers.heard(8, 4, said(2, &[]));
    assert!(peers.is_alive(9, 4) && !peers.is_alive(8 + SILENT, 4));
}

#[test]
fn a_leader_that_hears_no_majority_counts_as_gone() {
    let members = members();
    let mut peers = peers(0, &[1, 3]);
    let follower = view(&members, 2, Some(1));
    peers.heard(0, 1, said(1, &[2]));
    assert!(follower.hears_leader(0, &peers), "it hears the third");
    assert!(!Candidacy::default().stands(0, &follower, &peers));
    peers.heard(1, 1, said(1, &[2, 3]));
    assert!(!follower.hears_leader(1, &peers), "it is heard, and hears nobody");
    let mut candidacy = Candidacy::default();
    assert!((1..SILENT).any(|now| candidacy.stands(now, &follower, &peers)), "while it is heard");
    let ask = Ask { candidate: 2, last: None };
    assert!(would_vote(1, &ask, &view(&members, 3, Some(1)), &peers), "the third sees it likewise");
    let lately = led_at(0, view(&members, 3, Some(1)));
    assert!(!would_vote(1, &ask, &lately, &peers), "openraft's lease stands all the same");
    peers.heard(2, 1, said(1, &[]));
    assert!(follower.hears_leader(2, &peers), "it hears again");
    // While a group changes, both sets of voters count.
    let mut joint = members.clone();
    joint.voters.push([1, 4, 5].into());
    joint.nodes.extend([(4, 4), (5, 5)]);
    peers.heard(3, 1, said(1, &[4, 5]));
    assert!(!view(&joint, 2, Some(1)).hears_leader(3, &peers));
    assert!(follower.hears_leader(3, &peers), "of other groups than this one");
}

#[test]
fn who_was_not_heard_for_long_is_told_in_greetings() {
    let nodes = BTreeSet::from([2, 3]);
    let mut peers = peers(0, &[2, 3]);
    for now in (0..=SILENT).step_by(100) {
        peers.listen(now, &nodes);
        assert_eq!(peers.greeting(now, 7), said(7, if now < SILENT { &[] } else { &[2, 3] }));
    }
    peers.heard(SILENT, 3, said(1, &[]));
    assert_eq!(peers.greeting(SILENT, 7), said(7, &[2]));
    assert!(!peers.is_alive(SILENT, 2) && peers.is_alive(SILENT, 3));
    peers.listen(SILENT, &BTreeSet::from([3]));
    assert_eq!(peers.greeting(SILENT, 7), said(7, &[]), "it shares no group any more");
    // One that broke its connection may be back at once.
    peers.lost(3);
    assert_eq!(peers.greeting(SILENT + 1, 7), said(7, &[]));
}

#[test]
fn who_slept_or_just_began_to_listen_gives_others_time() {
    let nodes = BTreeSet::from([2]);
    let mut peers = peers(0, &[]);
    peers.listen(50, &nodes);
    assert_eq!(peers.greeting(50, 7), said(7, &[]), "it was never heard, and never asked");
    for now in (100..50 + SILENT).step_by(100) {
        peers.listen(now, &nodes);
        assert_eq!(peers.greeting(now, 7), said(7, &[]));
    }
    let woke = 50 + 4 * SILENT;
    peers.listen(woke, &nodes);
    assert_eq!(peers.greeting(woke, 7), said(7, &[]), "what was said meanwhile waits to be read");
    for now in (woke..=woke + SILENT).step_by(100) {
        peers.listen(now, &nodes);
    }
    assert_eq!(peers.greeting(woke + SILENT, 7), said(7, &[2]));
}

#[test]
fn of_two_that_ask_each_other_at_once_one_gets_a_yes() {
    let members = members();
    let peers = peers(0, &[2, 3]);
    let mut candidates = BTreeMap::new();
    for me in [2, 3] {
        let mut candidacy = Candidacy::default();
        (0..).find(|now| candidacy.stands(*now, &view(&members, me, Some(1)), &peers)).expect("stands");
        candidates.insert(me, candidacy);
    }
    let says_yes = |me: u64, candidate: u64, now_ms: i64, last: Option<EntryId>| {
        let ask = Ask { candidate, last };
        candidates[&me].would_vote(now_ms, &ask, &view(&members, me, Some(1)), &peers)
    };
    assert_ne!(says_yes(2, 3, 200, None), says_yes(3, 2, 200, None));
    let longer = Some(EntryId { term: 1, leader: 1, index: 1 });
    assert!(
        says_yes(2, 3, 200, longer) && says_yes(3, 2, 200, longer),
        "who has more comes before any order"
    );
    let late = RAFT_PREFERENCE_MS + RAFT_CANDIDATE_STEP_MS;
    assert!(says_yes(2, 3, late, None) && says_yes(3, 2, late, None), "who is never elected makes way");
    let calm = Candidacy::default();
    let ask = |candidate| Ask { candidate, last: None };
    assert!(calm.would_vote(200, &ask(3), &view(&members, 2, Some(1)), &peers), "it does not stand itself");
    assert!(calm.would_vote(200, &ask(2), &view(&members, 3, Some(1)), &peers));
}

#[test]
fn a_leader_that_only_others_know_of_counts_as_gone_when_it_sends_nothing() {
    let members = members();
    let mut peers = peers(0, &[1, 3]);
    // The term of an earlier leader, which was heard; then an answer that names the leader of term 2.
    let mut led = Led::default();
    led.sent(1);
    let follower = |led| View { term: 2, led, ..view(&members, 2, Some(1)) };
    let mut candidacy = Candidacy::default();
    let mut stood = None;
    for now in (100..4 * SILENT).step_by(100) {
        peers.heard(now, 1, said(1, &[]));
        peers.heard(now, 3, said(1, &[]));
        led.look(now, 2, true);
        let hears = follower(led).hears_leader(now, &peers);
        assert_eq!(hears, now < 100 + SILENT, "it has as long as it takes to count as silent: {now}");
        if candidacy.stands(now, &follower(led), &peers) {
            stood.get_or_insert(now);
        }
    }
    assert!(stood.is_some(), "though the node of that leader greets all along");
    let now = 4 * SILENT;
    let ask = Ask { candidate: 3, last: None };
    assert!(would_vote(now, &ask, &follower(led), &peers), "nor does it keep others from standing");
    // What it sends shows that it leads; of an earlier term it shows nothing.
    led.sent(1);
    assert!(!follower(led).hears_leader(now, &peers));
    led.sent(2);
    assert!(follower(led).hears_leader(now, &peers));
    assert!(!would_vote(now, &ask, &follower(led), &peers));
}

#[test]
fn each_leader_is_given_its_own_time() {
    let members = members();
    let peers = peers(5 * SILENT, &[1]);
    let mut led = Led::default();
    let hears = |now, term, led| View { term, led, ..view(&members, 2, Some(1)) }.hears_leader(now, &peers);
    led.look(0, 1, true);
    led.look(3 * SILENT, 1, true);
    assert!(!hears(5 * SILENT, 1, led));
    led.look(5 * SILENT, 2, true);
    assert!(hears(5 * SILENT, 2, led) && hears(6 * SILENT - 1, 2, led), "a new term, a new leader");
    // A term without a leader for a while: an answer names it later.
    led.look(5 * SILENT, 2, false);
    led.look(6 * SILENT - 1, 2, true);
    assert!(hears(6 * SILENT - 1, 2, led));
    led.taken(7);
    led.taken(3);
    assert_eq!(led.taken_at_ms, 7, "answers of two appends may overtake each other");
}
