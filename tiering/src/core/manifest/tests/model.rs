//! Random edits against a naive model: a plain list of objects and a set of retired ones.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        shift: i64,
        span: i64,
    },
    Spill {
        count: usize,
    },
    SpillPages {
        count: usize,
    },
    Prune {
        to: u8,
        head: bool,
    },
    /// DeleteRecords up to a high watermark that lies this far past the tier.
    Lift {
        past: i64,
    },
    Replace {
        at: usize,
        count: usize,
    },
    Sweep {
        count: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (-1i64..=1, 1i64..50, any::<bool>())
            .prop_map(|(shift, span, stale)| Step::Publish { shift: shift * i64::from(stale), span }),
        2 => (1usize..6).prop_map(|count| Step::Spill { count }),
        1 => (1usize..4).prop_map(|count| Step::SpillPages { count }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(to, head)| Step::Prune { to, head }),
        1 => (0i64..40).prop_map(|past| Step::Lift { past }),
        1 => (0usize..8, 1usize..4).prop_map(|(at, count)| Step::Replace { at, count }),
        2 => (0usize..8).prop_map(|count| Step::Sweep { count }),
    ]
}

/// More objects than one prune can retire, all of them deleted by offset, and new ones after the gap: what is
/// listed then has a gap below `log_start`, also within a page.
fn gap(objects: usize) -> Vec<Step> {
    let mut steps = vec![Step::Publish { shift: 0, span: 5 }; objects];
    steps.push(Step::Lift { past: 7 });
    steps.extend(vec![Step::Publish { shift: 0, span: 5 }; 5]);
    steps.push(Step::Spill { count: 8 });
    steps.push(Step::Sweep { count: 64 });
    steps
}

/// Objects in offset order, and those that have left.
#[derive(Default)]
struct Naive {
    listed: Vec<ObjectEntry>,
    pages: Vec<(Uuid, Vec<ObjectEntry>)>,
}

impl Naive {
    fn sums(&self) -> Totals {
        let all = self.listed.iter().map(Totals::of);
        all.fold(Totals::default(), |a, b| a.plus(&b).expect("small"))
    }

    /// Objects of the page that `log_start` cuts through and that lie wholly below it.
    fn head(&self, m: &Manifest, log_start: Offset) -> Vec<Node> {
        let cut = m.pages.iter().find(|p| p.end > log_start);
        let Some(cut) = cut.filter(|p| p.start < log_start && p.level == 0) else { return vec![] };
        let dead_pages = m.pages.iter().filter(|p| p.end <= log_start).count();
        let room = 64usize.saturating_sub(m.retiring.len() + dead_pages);
        let (_, objects) = self.pages.iter().find(|(id, _)| *id == cut.upload_id).expect("known page");
        let dead = objects.iter().filter(|o| o.start >= cut.start && o.end <= log_start);
        dead.take(room).cloned().map(Node::Object).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn edits_agree_with_a_naive_list(
        objects in prop_oneof![2 => Just(None), 1 => (60usize..80).prop_map(Some)],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let steps = objects.map(gap).into_iter().flatten().chain(steps);
        let mut m = Manifest::new(0);
        let mut naive = Naive::default();
        let mut upload = 0u128;
        for step in steps {
            upload += 1;
            let before = m.clone();
            let edit = match &step {
                Step::Publish { shift, span } => {
                    let start = m.tiered_end + shift;
                    let epochs = vec![EpochStart { epoch: 1, start_offset: start.max(0) }];
                    Edit::Publish { object: object(start, start + span, 1, upload), epochs }
                }
                Step::Spill { count } => match page(&m, 0, *count, 1, upload) {
                    Some(page) => Edit::Spill { page },
                    None => continue,
                },
                Step::SpillPages { count } => match page(&m, 1, *count, 1, upload) {
                    Some(page) => Edit::Spill { page },
                    None => continue,
                },
                Step::Prune { to, head } => {
                    let reach = m.tiered_end + 10 - m.log_start;
                    let log_start = m.log_start + reach * i64::from(*to) / 1024;
                    let head = if *head { naive.head(&m, log_start) } else { vec![] };
                    Edit::Prune { log_start, head }
                }
                Step::Lift { past } => Edit::Prune { log_start: m.tiered_end + past, head: vec![] },
                Step::Replace { at, count } => {
                    let Some(run) = m.entries.get(*at..at + count) else { continue };
                    let removed = run.iter().map(|e| e.upload_id).collect();
                    let mut object = object(run[0].start, run[count - 1].end, 1, upload);
                    object.records = run.iter().map(|e| e.records).sum();
                    Edit::Replace { removed, object }
                }
                Step::Sweep { count } => {
                    let upload_ids = m.retiring.iter().take(*count).map(|r| r.what.upload_id()).collect();
                    Edit::Swept { upload_ids }
                }
            };
            let request = EditRequest { expected_version: m.version, leader_epoch: 1, edit: edit.clone() };
            match m.edited(5, &request) {
                Err(refusal) => {
                    prop_assert_eq!(&m, &before);
                    prop_assert!(!matches!(refusal, Refusal::Broken { .. }), "{}", refusal);
                    let misaligned = matches!(refusal, Refusal::Misaligned { .. });
                    prop_assert!(!misaligned || !matches!(step, Step::Prune { .. }), "{}", refusal);
                    let aligned = matches!(step, Step::Publish { shift: 0, .. });
                    prop_assert!(!aligned || m.entries.len() >= 128, "an aligned publish was refused: {}", refusal);
                    continue;
                }
                Ok(next) => m = next,
            }
            prop_assert_eq!(m.version, before.version + 1);
            match edit {
                Edit::Publish { object, .. } => {
                    prop_assert_eq!(object.start, before.tiered_end);
                    naive.listed.push(object);
                }
                Edit::Spill { page } if page.level == 0 => {
                    let of = |o: &&ObjectEntry| o.start >= page.start && o.end <= page.end;
                    naive.pages.push((page.upload_id, naive.listed.iter().filter(of).cloned().collect()));
                }
                Edit::Spill { .. } | Edit::Swept { .. } => {}
                Edit::Prune { log_start, .. } => {
                    prop_assert_eq!(m.log_start, log_start);
                    let kept = m.listed_start();
                    naive.listed.retain(|o| o.start >= kept || o.end > log_start);
                }
                Edit::Replace { removed, object } => {
                    let at = naive.listed.iter().position(|o| o.upload_id == removed[0]).expect("listed");
                    naive.listed.splice(at..at + removed.len(), [object]);
                }
            }
            prop_assert_eq!(m.totals, naive.sums(), "{:?}", m);
            let stale = EditRequest { expected_version: before.version, ..request };
            prop_assert!(m.decide(5, &stale).is_err(), "the same edit is refused the second time");
            for probe in [m.log_start, (m.log_start + m.tiered_end) / 2, m.tiered_end - 1] {
                let listed = naive.listed.iter().any(|o| o.start <= probe && probe < o.end);
                prop_assert_eq!(m.find(probe).is_some(), listed && probe >= m.log_start, "{}", probe);
            }
        }
    }
}
