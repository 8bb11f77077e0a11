//! Golden scripts (a transcript per file), a property test against a naive model, and the size bound.

mod model;
mod size;

use std::fmt::Write as _;
use std::path::Path;

use super::*;

pub(super) fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// An object whose figures follow from its range, so that sums are easy to see.
pub(super) fn object(start: Offset, end: Offset, epoch: LeaderEpoch, upload: u128) -> ObjectEntry {
    let records = end.abs_diff(start).max(1);
    ObjectEntry {
        start,
        end,
        epoch,
        upload_id: id(upload),
        bytes: records * 10,
        footer_bytes: 8,
        raw_bytes: records * 100,
        records,
        min_timestamp: start * 1000,
        max_timestamp: end.max(start) * 1000 - 1,
        crc32c: upload as u32,
    }
}

/// The page of level 0 over the `count` oldest inline objects, or of level n over `count` pages of level n -
/// 1.
pub(super) fn page(
    m: &Manifest,
    level: u8,
    count: usize,
    epoch: LeaderEpoch,
    upload: u128,
) -> Option<PageRef> {
    let nodes: Vec<Node> = if level == 0 {
        m.entries.iter().take(count).cloned().map(Node::Object).collect()
    } else {
        m.pages.iter().filter(|p| p.level == level - 1).take(count).cloned().map(Node::Page).collect()
    };
    let s = edit::Summary::of(&nodes)?;
    let (min_timestamp, max_timestamp) = s.timestamps;
    let Summary { start, end, totals, .. } = s;
    let upload_id = id(upload);
    Some(PageRef {
        level,
        start,
        end,
        epoch,
        upload_id,
        page_bytes: 100,
        crc32c: 1,
        min_timestamp,
        max_timestamp,
        totals,
    })
}
use edit::Summary;

fn show(m: &Manifest) -> String {
    let mut line = format!("v{} g{} {}..{}", m.version, m.generation, m.log_start, m.tiered_end);
    for node in m.nodes() {
        match node {
            Node::Page(p) => {
                let _ = write!(line, " [L{} {}..{} x{}]", p.level, p.start, p.end, p.totals.objects);
            }
            Node::Object(o) => {
                let _ = write!(line, " {}..{}#{}", o.start, o.end, o.upload_id.as_u128());
            }
        }
    }
    if !m.retiring.is_empty() {
        line += " retiring";
        for r in &m.retiring {
            let _ = write!(line, " {}@{}", r.what.upload_id().as_u128(), r.since_ms);
        }
    }
    let _ = write!(line, " | {} objects {} bytes", m.totals.objects, m.totals.bytes);
    for e in &m.epochs {
        let _ = write!(line, " e{}@{}", e.epoch, e.start_offset);
    }
    line
}

struct Script {
    manifest: Manifest,
    now_ms: i64,
}

impl Script {
    /// `publish 0..64 e1 #1 [v=3] [epochs=0@0,1@32]` and the like; see the golden files.
    fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = words
            .iter()
            .find_map(|w| w.split_once(".."))
            .map_or((0, 0), |(a, b)| (a.parse().expect("start"), b.parse().expect("end")));
        let number = |tag: char| words.iter().filter_map(|w| w.strip_prefix(tag)?.parse::<u64>().ok()).next();
        let epoch = number('e').map_or(self.manifest.generation.max(0), |e| e as LeaderEpoch);
        let uploads: Vec<u128> =
            words.iter().filter_map(|w| w.strip_prefix('#')).map(|w| w.parse().expect("id")).collect();
        let upload = uploads.first().copied().unwrap_or(0);
        let value = |name: &str| words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        let edit = match words[0] {
            "now" => {
                self.now_ms = words[1].parse().expect("ms");
                return "ok".into();
            }
            "publish" => {
                let of_object = value("of").map_or(epoch, |e| e.parse().expect("epoch"));
                let mut object = object(start, end, of_object, upload);
                if let Some(bytes) = value("bytes") {
                    object.bytes = bytes.parse().expect("bytes");
                }
                let default = format!("{epoch}@{start}");
                let pair = |e: &str| {
                    let (epoch, at) = e.split_once('@').expect("epoch@offset");
                    EpochStart { epoch: epoch.parse().expect("e"), start_offset: at.parse().expect("o") }
                };
                let epochs = value("epochs").unwrap_or(&default).split(',').map(pair).collect();
                Edit::Publish { object, epochs }
            }
            "replace" => {
                let (new, old) = uploads.split_last().expect("ids");
                let removed = old.iter().copied().map(id).collect();
                Edit::Replace { removed, object: object(start, end, epoch, *new) }
            }
            "prune" => {
                let log_start = words[1].parse().expect("log_start");
                let head = value("head").map_or(Vec::new(), |list| {
                    list.split(',')
                        .map(|o| {
                            let (range, upload) = o.split_once('#').expect("range#id");
                            let (a, b) = range.split_once('-').expect("start-end");
                            let (a, b) = (a.parse().expect("a"), b.parse().expect("b"));
                            Node::Object(object(a, b, epoch, upload.parse().expect("id")))
                        })
                        .collect()
                });
                Edit::Prune { log_start, head }
            }
            "spill" => {
                let level = value("level").map_or(0, |l| l.parse().expect("level"));
                let count = value("count").expect("count").parse().expect("count");
                let mut page = page(&self.manifest, level, count, epoch, upload).expect("something to spill");
                if words.contains(&"lying") {
                    page.totals.bytes += 1;
                }
                Edit::Spill { page }
            }
            "swept" => Edit::Swept { upload_ids: uploads.into_iter().map(id).collect() },
            other => panic!("unknown command {other}"),
        };
        let expected_version = number('v').unwrap_or(self.manifest.version);
        let request = EditRequest { expected_version, leader_epoch: epoch, edit };
        let before = self.manifest.clone();
        match self.manifest.edited(self.now_ms, &request) {
            Ok(next) => {
                self.manifest = next;
                show(&self.manifest)
            }
            Err(refusal) => {
                assert_eq!(before, self.manifest, "a refusal changes nothing");
                format!("refused: {refusal}")
            }
        }
    }
}

/// Runs every transcript. `HIGHWATER_GOLDEN=write` writes the answers instead, to be read before they are
/// committed.
#[test]
fn transcripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core/manifest/golden");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("golden").map(|e| e.expect("file").path()).collect();
    files.sort();
    assert!(files.len() >= 4, "transcripts were found");
    for path in files {
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        let mut script = Script { manifest: Manifest::new(0), now_ms: 0 };
        let mut written = String::new();
        for line in text.lines() {
            if line.trim().is_empty() || line.starts_with('#') {
                written += &format!("{line}\n");
            } else if !line.starts_with("  ") {
                written += &format!("{line}\n  {}\n", script.run(line));
            }
        }
        if std::env::var("HIGHWATER_GOLDEN").is_ok_and(|v| v == "write") {
            std::fs::write(&path, written).expect("written");
        } else {
            assert_eq!(written, text, "{}", path.display());
        }
    }
}

/// A reader of an old form must go on reading it: one stored manifest per format (docs/format.md).
#[test]
fn stored_forms_still_load() {
    let text = include_str!("../../../fixtures/manifest-v1.json");
    let manifest: Manifest = serde_json::from_str(text).expect("version 1 loads");
    assert_eq!(manifest.check(), Ok(()));
    assert_eq!((manifest.format, manifest.pages.len(), manifest.entries.len()), (1, 1, 2));
    let again: Manifest = serde_json::from_slice(&serde_json::to_vec(&manifest).expect("JSON"))
        .expect("what was written loads");
    assert_eq!(again, manifest);
}

#[test]
fn each_broken_rule_is_found_at_load() {
    let text = include_str!("../../../fixtures/manifest-v1.json");
    let whole: Manifest = serde_json::from_str(text).expect("loads");
    type Change = fn(&mut Manifest);
    let cases: [(&str, Change); 12] = [
        ("unknown format", |m| m.format = 2),
        ("0 <= log_start <= tiered_end", |m| m.log_start = m.tiered_end + 1),
        ("generation", |m| m.generation = -2),
        ("within its limits", |m| m.epochs = vec![m.epochs[0]; 257]),
        ("objects do not overlap", |m| m.entries[1].start -= 1),
        ("no gap above log_start", |m| m.entries[1].start += 1),
        ("no empty object", |m| {
            m.entries[1].end = m.entries[1].start;
            m.tiered_end = m.entries[1].end;
        }),
        ("the list ends at tiered_end", |m| m.tiered_end += 1),
        ("totals are the sums of what is listed", |m| m.totals.bytes += 1),
        ("every node holds bytes", |m| m.entries[0].bytes = 0),
        ("upload ids are unique", |m| m.entries[0].upload_id = m.entries[1].upload_id),
        ("epochs ascend", |m| m.epochs = vec![m.epochs[0]; 2]),
    ];
    for (rule, change) in cases {
        let mut broken = whole.clone();
        change(&mut broken);
        assert_eq!(broken.check().map_err(|b| b.rule), Err(rule));
    }
}

#[test]
fn offsets_are_found_where_they_are_listed() {
    let text = include_str!("../../../fixtures/manifest-v1.json");
    let m: Manifest = serde_json::from_str(text).expect("loads");
    for offset in m.log_start..m.tiered_end {
        match m.find(offset).expect("listed") {
            Found::Object(o) => assert!(o.start <= offset && offset < o.end),
            Found::Page(p) => assert!(p.start <= offset && offset < p.end),
        }
    }
    assert_eq!(m.find(m.log_start - 1), None);
    assert_eq!(m.find(m.tiered_end), None);
}
