//! Reading JSON as the documents say it: an object is written as an object, and no name of a map twice.
//!
//! What serde derives also takes an array for a struct, field by field, and the last of two equal names of a map. Neither is
//! meant by anybody who sends it. [`Strict`] wraps a deserializer, and all that it leads to.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

/// Reads `text`, one JSON document, as a `T`.
///
/// # Errors
/// What `serde_json` says of it, and an array where an object should be, or a name that is given twice in a map.
pub fn from_str<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Strict(&mut deserializer))?;
    deserializer.end()?;
    Ok(value)
}

/// A deserializer by which structs are read from objects alone, and maps without double names.
#[derive(Clone, Copy, Debug)]
pub struct Strict<D>(pub D);

macro_rules! forwarded {
    ($($name:ident($($argument:ident: $kind:ty),*))*) => {
        $(fn $name<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$name($($argument,)* Inside { visitor, names: None })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    forwarded! {
        deserialize_any() deserialize_bool()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_option() deserialize_unit()
        deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_seq() deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
        deserialize_identifier() deserialize_ignored_any()
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(Inside { visitor, names: Some(RefCell::default()) })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        // Double fields are found by what serde derives.
        self.0.deserialize_map(Inside { visitor, names: None })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Names that were read of one map.
type Names = RefCell<BTreeSet<String>>;

/// What reads a part, and hands the strictness on.
struct Inside<V> {
    visitor: V,
    names: Option<Names>,
}

macro_rules! visited {
    ($($name:ident: $kind:ty,)*) => {
        $(fn $name<E: Error>(self, value: $kind) -> Result<V::Value, E> {
            self.visitor.$name(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Inside<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visited! {
        visit_bool: bool,
        visit_i8: i8, visit_i16: i16, visit_i32: i32, visit_i64: i64, visit_i128: i128,
        visit_u8: u8, visit_u16: u16, visit_u32: u32, visit_u64: u64, visit_u128: u128,
        visit_f32: f32, visit_f64: f64, visit_char: char,
        visit_str: &str, visit_borrowed_str: &'de str, visit_string: String,
        visit_bytes: &[u8], visit_borrowed_bytes: &'de [u8], visit_byte_buf: Vec<u8>,
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Strict(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Strict(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        // The kind of such an enum may stand first in an array as well: that too is an object by position.
        if (&self as &dyn serde::de::Expected).to_string().starts_with("internally tagged enum") {
            return Err(A::Error::invalid_type(Unexpected::Seq, &"an object with a field `kind`"));
        }
        self.visitor.visit_seq(Each(seq))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Pairs { map, names: self.names })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Variants(data))
    }
}

/// A seed, by which what it reads is read strictly.
struct Seed<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

struct Each<A>(A);

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Each<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Seed(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

struct Pairs<A> {
    map: A,
    names: Option<Names>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Pairs<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        match &self.names {
            Some(names) => self.map.next_key_seed(Name { seed, names }),
            None => self.map.next_key_seed(Seed(seed)),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.map.next_value_seed(Seed(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.map.size_hint()
    }
}

/// A name of a map, refused when it was there before.
struct Name<'n, S> {
    seed: S,
    names: &'n Names,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let name = String::deserialize(deserializer)?;
        if !self.names.borrow_mut().insert(name.clone()) {
            return Err(D::Error::custom(format_args!("duplicate field `{name}`")));
        }
        self.seed.deserialize(name.into_deserializer())
    }
}

struct Variants<A>(A);

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Variants<A> {
    type Error = A::Error;
    type Variant = Content<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Content<A::Variant>), A::Error> {
        self.0.variant_seed(Seed(seed)).map(|(value, content)| (value, Content(content)))
    }
}

struct Content<A>(A);

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Content<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Seed(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Inside { visitor, names: None })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.newtype_variant_seed(Object(visitor))
    }
}

/// The fields of an enum's variant: an object.
struct Object<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Object<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_map(Inside { visitor: self.0, names: None })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::attempt::Report;
    use crate::selector::BulkCancel;
    use crate::spec::NewTask;
    use crate::task::Outcome;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    enum Shape {
        Round { radius: u32 },
        Pair(u32, u32),
    }

    fn refused<T: DeserializeOwned>(text: &str) -> bool {
        from_str::<T>(text).is_err()
    }

    #[test]
    fn an_array_does_not_pass_for_an_object_anywhere() {
        assert!(refused::<NewTask>(r#"{"container":["debian",["echo"]]}"#));
        assert!(refused::<NewTask>(r#"{"container":{"image":"a"},"retry":[5]}"#));
        assert!(refused::<NewTask>(r#"{"container":{"image":"a"},"wait_for":[["go"]]}"#));
        assert!(refused::<NewTask>(r#"{"container":{"image":"a"},"unique":["k"]}"#));
        assert!(refused::<BulkCancel>(r#"{"selector":[[],"run"]}"#));
        assert!(refused::<Outcome>(r#"["succeeded"]"#));
        assert!(refused::<Report>(r#"{"outcome":["succeeded"]}"#));
        assert!(refused::<Shape>(r#"{"Round":[1]}"#));
        assert_eq!(from_str::<Shape>(r#"{"Round":{"radius":1}}"#).unwrap(), Shape::Round { radius: 1 });
        assert_eq!(from_str::<Shape>(r#"{"Pair":[1,2]}"#).unwrap(), Shape::Pair(1, 2));
    }

    #[test]
    fn a_name_that_is_given_twice_is_refused_in_maps_of_names() {
        let twice = from_str::<NewTask>(r#"{"container":{"image":"a"},"labels":{"a":"1","a":"2"}}"#);
        assert!(twice.unwrap_err().to_string().starts_with("duplicate field `a`"));
        assert!(refused::<NewTask>(r#"{"container":{"image":"a","env":{"A":"1","A":"1"}}}"#));
        assert!(!refused::<NewTask>(r#"{"container":{"image":"a"},"labels":{"a":"1","b":"1"}}"#));
    }

    #[test]
    fn what_is_written_well_reads_as_before() {
        let text = r#"{"container":{"image":"a","command":["x"],"env":{"A":"b"}},"input":[1,{"a":[null]}],
            "retry":{"max_attempts":2,"backoff":{"initial":"5s"}},"wait_for":[{"signal":"go"}],"labels":{"k":"v"}}"#;
        assert_eq!(from_str::<NewTask>(text).unwrap(), serde_json::from_str::<NewTask>(text).unwrap());
        let raw = from_str::<Vec<Box<RawValue>>>("[ [1, 2] , {}]").unwrap();
        assert_eq!(raw.iter().map(|raw| raw.get()).collect::<Vec<_>>(), ["[1, 2]", "{}"]);
        let failed = from_str::<Outcome>(r#"{"kind":"failed","exit_code":3}"#).unwrap();
        assert!(matches!(failed, Outcome::Failed { exit_code: 3, .. }));
        assert_eq!(from_str::<Value>(" [1] ").unwrap(), serde_json::json!([1]));
        assert!(refused::<Value>("[1] 2"));
    }
}
