pub mod objects;
pub mod records;
