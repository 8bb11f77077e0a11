//! The one schema of every object: as Parquet stores it and as Arrow readers see it.
//!
//! Names, types, nullability and field ids are a contract with whoever reads the bucket (see "Tier object" in
//! `docs/format.md`): columns may be added behind these, never changed. The Arrow schema is derived from the
//! Parquet one, so the two cannot disagree. `_value` is the same bytes under every annotation.

use std::sync::Arc;

use arrow::datatypes::Schema;
use parquet::arrow::{encode_arrow_schema, parquet_to_arrow_schema};
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

use crate::core::layout::{COLUMNS, ValueFormat};

/// Field ids (Iceberg's rule: never used again for another column).
pub mod field_id {
    pub const OFFSET: i32 = 1;
    pub const TIMESTAMP: i32 = 2;
    pub const KEY: i32 = 3;
    pub const VALUE: i32 = 4;
    pub const HEADERS: i32 = 5;
    pub const HEADER: i32 = 6;
    pub const HEADER_KEY: i32 = 7;
    pub const HEADER_VALUE: i32 = 8;
}

/// The key under which Arrow's writers keep their schema.
pub const ARROW_SCHEMA_KEY: &str = "ARROW:schema";

/// The schema of an object whose values are annotated as `format`.
pub fn parquet_schema(format: ValueFormat) -> SchemaDescPtr {
    let schema = build(format).expect("a constant schema is valid");
    let descriptor = SchemaDescriptor::new(schema);
    assert_eq!(descriptor.num_columns(), COLUMNS, "leaf columns are numbered in `layout`");
    Arc::new(descriptor)
}

/// The same as Arrow readers see it.
pub fn arrow_schema(format: ValueFormat) -> Schema {
    parquet_to_arrow_schema(&parquet_schema(format), None).expect("a constant schema converts")
}

/// The Arrow schema as the footer holds it under `ARROW_SCHEMA_KEY`.
pub fn arrow_schema_value(format: ValueFormat) -> String {
    encode_arrow_schema(&arrow_schema(format))
}

fn leaf(
    name: &str,
    physical: PhysicalType,
    repetition: Repetition,
    logical: Option<LogicalType>,
    id: i32,
) -> Result<TypePtr, ParquetError> {
    let builder = Type::primitive_type_builder(name, physical).with_repetition(repetition);
    Ok(Arc::new(builder.with_logical_type(logical).with_id(Some(id)).build()?))
}

fn build(format: ValueFormat) -> Result<TypePtr, ParquetError> {
    use PhysicalType::{BYTE_ARRAY, INT64};
    const REQUIRED: Repetition = Repetition::REQUIRED;
    const OPTIONAL: Repetition = Repetition::OPTIONAL;
    let micros = LogicalType::timestamp(true, TimeUnit::MICROS);
    let value = match format {
        ValueFormat::Bytes => None,
        ValueFormat::Utf8 => Some(LogicalType::String),
        ValueFormat::Json => Some(LogicalType::Json),
    };
    let header = Type::group_type_builder("element")
        .with_repetition(REQUIRED)
        .with_id(Some(field_id::HEADER))
        .with_fields(vec![
            leaf("key", BYTE_ARRAY, REQUIRED, None, field_id::HEADER_KEY)?,
            leaf("value", BYTE_ARRAY, OPTIONAL, None, field_id::HEADER_VALUE)?,
        ])
        .build()?;
    let list = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(header)])
        .build()?;
    let headers = Type::group_type_builder("_headers")
        .with_repetition(REQUIRED)
        .with_logical_type(Some(LogicalType::List))
        .with_converted_type(parquet::basic::ConvertedType::LIST)
        .with_id(Some(field_id::HEADERS))
        .with_fields(vec![Arc::new(list)])
        .build()?;
    let schema = Type::group_type_builder("schema")
        .with_fields(vec![
            leaf("_offset", INT64, REQUIRED, None, field_id::OFFSET)?,
            leaf("_timestamp", INT64, OPTIONAL, Some(micros), field_id::TIMESTAMP)?,
            leaf("_key", BYTE_ARRAY, OPTIONAL, None, field_id::KEY)?,
            leaf("_value", BYTE_ARRAY, OPTIONAL, value, field_id::VALUE)?,
            Arc::new(headers),
        ])
        .build()?;
    Ok(Arc::new(schema))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;

    #[test]
    fn arrow_sees_the_contract() {
        for (format, value) in [
            (ValueFormat::Bytes, DataType::Binary),
            (ValueFormat::Utf8, DataType::Utf8),
            (ValueFormat::Json, DataType::Utf8),
        ] {
            let schema = arrow_schema(format);
            let seen: Vec<_> =
                schema.fields().iter().map(|f| (f.name().as_str(), f.data_type(), f.is_nullable())).collect();
            assert_eq!(seen[0], ("_offset", &DataType::Int64, false));
            assert_eq!(seen[1].1, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
            assert_eq!(seen[2], ("_key", &DataType::Binary, true));
            assert_eq!(seen[3], ("_value", &value, true));
            assert_eq!((seen[4].0, seen[4].2, seen.len()), ("_headers", false, 5));
            let DataType::List(header) = seen[4].1 else { panic!("a list: {:?}", seen[4]) };
            let DataType::Struct(fields) = header.data_type() else { panic!("of structures: {header:?}") };
            assert_eq!((fields[0].name().as_str(), fields[0].is_nullable()), ("key", false));
            assert_eq!((fields[1].name().as_str(), fields[1].is_nullable()), ("value", true));
        }
    }

    #[test]
    fn field_ids_never_change() {
        let schema = parquet_schema(ValueFormat::Bytes);
        let ids: Vec<i32> =
            schema.root_schema().get_fields().iter().map(|f| f.get_basic_info().id()).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        let leaves: Vec<i32> = schema.columns().iter().map(|c| c.self_type().get_basic_info().id()).collect();
        assert_eq!(leaves, [1, 2, 3, 4, 7, 8]);
    }
}
