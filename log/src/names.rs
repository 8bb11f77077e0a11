//! The names of a partition's files. `docs/format.md` describes what is in them.

use highwater_model::Offset;

pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const MARKS: &str = "marks";
/// Raft's side files, which the layer above keeps in the same directory.
pub(crate) const RAFT: &str = "raft";
pub(crate) const RAFT_BEGINNING: &str = "raft.beginning";
pub(crate) const RAFT_GROUP: &str = "raft.group";
const DIGITS: usize = 20;

pub(crate) fn log(start: Offset) -> String {
    format!("{start:020}.log")
}

/// A segment on its way out: recovery removes it.
pub(crate) fn deleted(start: Offset) -> String {
    format!("{start:020}.log.deleted")
}

pub(crate) fn index(start: Offset) -> String {
    format!("{start:020}.index")
}

/// The producer table as it was when the log ended at `end`.
pub(crate) fn producers(end: Offset) -> String {
    format!("{end:020}.producers")
}

/// One that is on its way to that name.
pub(crate) fn producers_to_be(end: Offset) -> String {
    format!("{end:020}.producers.tmp")
}

/// What a name in the directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Log(Offset),
    Index(Offset),
    Producers(Offset),
    Checkpoint,
    Marks,
    /// Not the log's, and known.
    Neighbour,
    /// Left behind by a crash; removed at start-up.
    Garbage,
    /// None of ours; left alone.
    Unknown,
}

pub(crate) fn parse(name: &str) -> Named {
    match name {
        CHECKPOINT => return Named::Checkpoint,
        MARKS => return Named::Marks,
        RAFT | RAFT_BEGINNING | RAFT_GROUP => return Named::Neighbour,
        _ => {}
    }
    let Some((stem, suffix)) = name.split_once('.') else {
        return Named::Unknown;
    };
    let replaced = [CHECKPOINT, RAFT, RAFT_BEGINNING, RAFT_GROUP];
    if name.strip_suffix(".tmp").is_some_and(|name| replaced.contains(&name)) {
        return Named::Garbage;
    }
    let Some(offset) = offset(stem) else {
        return Named::Unknown;
    };
    match suffix {
        "log" => Named::Log(offset),
        "index" => Named::Index(offset),
        "producers" => Named::Producers(offset),
        "log.deleted" | "producers.tmp" => Named::Garbage,
        _ => Named::Unknown,
    }
}

fn offset(stem: &str) -> Option<Offset> {
    let plain = stem.len() == DIGITS && stem.bytes().all(|b| b.is_ascii_digit());
    if plain { stem.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for at in [0, 7, i64::MAX] {
            assert_eq!(parse(&log(at)), Named::Log(at));
            assert_eq!(parse(&index(at)), Named::Index(at));
            assert_eq!(parse(&producers(at)), Named::Producers(at));
            assert_eq!((parse(&deleted(at)), parse(&producers_to_be(at))), (Named::Garbage, Named::Garbage));
            assert_eq!(producers_to_be(at), format!("{}.tmp", producers(at)), "as a file is replaced");
        }
        assert_eq!(parse("marks"), Named::Marks);
        assert_eq!((parse("raft"), parse("raft.tmp")), (Named::Neighbour, Named::Garbage));
        assert_eq!(parse("checkpoint.tmp"), Named::Garbage);
        for other in
            ["", ".", "x.log", "1.log", "99999999999999999999.log", "-0000000000000000001.log", "é.log"]
        {
            assert_eq!(parse(other), Named::Unknown, "{other:?}");
        }
    }
}
