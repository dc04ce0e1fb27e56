//! Cells out of the driver's values and into them, by the driver's own serde forms; pure. Its dates and moments show their parts to nobody
//! else, and by way of `chrono` they would end in the year 262,142.

use std::collections::BTreeMap;
use std::fmt;

use neo4rs::BoltType;
use serde::de::value::{Error as ValueError, MapDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::de::{IntoDeserializer, value::StrDeserializer};
use serde::forward_to_deserialize_any;

use super::super::encode::Cell;

const MICROS: i64 = 1_000_000;

/// A value of the driver made of its parts: a date of `days`, a moment of `seconds` and `nanoseconds`.
#[derive(Debug, Clone)]
struct Parts {
    kind: &'static str,
    parts: BTreeMap<&'static str, i64>,
}

/// The days since 1970-01-01 as the driver's date.
pub(super) fn date(days: i32) -> Result<BoltType, ValueError> {
    BoltType::deserialize(Parts { kind: "date", parts: [("days", i64::from(days))].into() })
}

/// Microseconds since 1970-01-01 as the driver's moment (`utc`) or local time.
pub(super) fn timestamp(micros: i64, utc: bool) -> Result<BoltType, ValueError> {
    let (seconds, nanoseconds) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS) * 1_000);
    let mut parts = BTreeMap::from([("seconds", seconds), ("nano_seconds", nanoseconds)]);
    if utc {
        parts.insert("tz_offset_seconds", 0);
    }
    BoltType::deserialize(Parts { kind: if utc { "date_time" } else { "local_date_time" }, parts })
}

impl<'de> Deserializer<'de> for Parts {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Parts {
    type Error = ValueError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), ValueError> {
        let kind: StrDeserializer<'_, ValueError> = self.kind.into_deserializer();
        Ok((seed.deserialize(kind)?, self))
    }
}

impl<'de> VariantAccess<'de> for Parts {
    type Error = ValueError;

    fn unit_variant(self) -> Result<(), ValueError> {
        Err(ValueError::custom("it has parts"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, ValueError> {
        Err(ValueError::custom("it has parts"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_map(MapDeserializer::new(self.parts.into_iter()))
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value, ValueError> {
        self.tuple_variant(0, visitor)
    }
}

/// A value as this sink knows it.
pub(super) struct Wire(pub(super) Cell);

/// What kind of value the driver holds.
enum Kind {
    Plain,
    Date,
    Moment,
    Local,
    Other(String),
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl Visitor<'_> for Named {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the kind of a value")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Kind, E> {
                Ok(match name {
                    "null" | "string" | "boolean" | "map" | "integer" | "float" | "list" => Kind::Plain,
                    "date" => Kind::Date,
                    "date_time" => Kind::Moment,
                    "local_date_time" => Kind::Local,
                    other => Kind::Other(other.to_owned()),
                })
            }
        }
        deserializer.deserialize_identifier(Named)
    }
}

impl<'de> Deserialize<'de> for Wire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By this name the driver knows that any kind of value is welcome.
        deserializer.deserialize_enum(std::any::type_name::<BoltType>(), &[], OfAnyKind).map(Wire)
    }
}

struct OfAnyKind;

impl<'de> Visitor<'de> for OfAnyKind {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Cell, A::Error> {
        let (kind, variant) = data.variant::<Kind>()?;
        let part = |parts: &BTreeMap<String, i64>, name: &str| parts.get(name).copied().unwrap_or_default();
        let micros = |parts: &BTreeMap<String, i64>| {
            let seconds = i128::from(part(parts, "seconds")) - i128::from(part(parts, "tz_offset_seconds"));
            let micros = seconds * i128::from(MICROS) + i128::from(part(parts, "nano_seconds") / 1_000);
            i64::try_from(micros).map_err(|_| A::Error::custom("a moment is too far away to be read"))
        };
        Ok(match kind {
            Kind::Plain => variant.tuple_variant(1, Plain)?,
            Kind::Date => {
                let days = part(&variant.tuple_variant(1, OfParts)?, "days");
                Cell::Date(i32::try_from(days).map_err(|_| A::Error::custom("a date is too far away to be read"))?)
            }
            Kind::Moment => Cell::Timestamp(micros(&variant.tuple_variant(1, OfParts)?)?, true),
            Kind::Local => Cell::Timestamp(micros(&variant.tuple_variant(1, OfParts)?)?, false),
            Kind::Other(name) => return Err(A::Error::custom(format!("a {name} is nothing that this sink writes"))),
        })
    }
}

/// The parts of a date or moment, by name.
struct OfParts;

impl<'de> Visitor<'de> for OfParts {
    type Value = BTreeMap<String, i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the parts of a date")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut parts = BTreeMap::new();
        while let Some(Name(name)) = map.next_key()? {
            parts.insert(name, map.next_value()?);
        }
        Ok(parts)
    }
}

/// The name of a part.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl Visitor<'_> for Named {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }
        }
        deserializer.deserialize_identifier(Named)
    }
}

/// A value that serde knows.
struct Plain;

impl<'de> Visitor<'de> for Plain {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value")
    }

    fn visit_unit<E: Error>(self) -> Result<Cell, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Cell, E> {
        Ok(Cell::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Cell, E> {
        Ok(Cell::Int(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Cell, E> {
        Ok(Cell::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Cell, E> {
        Ok(Cell::text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Cell, A::Error> {
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or_default());
        while let Some(Wire(cell)) = seq.next_element()? {
            items.push(cell);
        }
        Ok(Cell::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
        let mut entries = Vec::with_capacity(map.size_hint().unwrap_or_default());
        while let Some((name, Wire(cell))) = map.next_entry::<String, Wire>()? {
            entries.push((name.into(), cell));
        }
        Ok(Cell::Map(entries))
    }
}
