//! Typed access to a JSON object; every error names the field's path.

use crate::error::{Error, Result};
use serde_json::{Map, Value};

pub struct Fields {
    object: Map<String, Value>,
    path: String,
}

impl Fields {
    pub fn parse(text: &str, path: &str) -> Result<Fields> {
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Fields { object, path: path.to_string() }),
            Ok(_) => Err(Error::invalid(path, format!("{path} is not a JSON object"))),
            Err(error) => Err(Error::invalid(path, format!("{path} is not JSON: {error}"))),
        }
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Present and not null.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Present, though perhaps null.
    pub fn names(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, what: &str) -> Error {
        let shown = self.value(name).map(Value::to_string).unwrap_or_default();
        let shown: String = shown.chars().take(80).collect();
        Error::invalid(self.path(name), format!("{} must be {what}, not {shown}", self.path(name)))
    }

    fn missing(&self, name: &str) -> Error {
        Error::invalid(self.path(name), format!("{} is missing", self.path(name)))
    }

    /// A whole number in 1..=max.
    pub fn count(&self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
            _ => Err(self.wrong(name, &format!("a whole number in 1..{max}"))),
        }
    }

    pub fn required_count(&self, name: &str, max: usize) -> Result<usize> {
        self.count(name, max)?.ok_or_else(|| self.missing(name))
    }

    /// A whole number in 0..=max.
    pub fn index(&self, name: &str, max: usize) -> Result<Option<usize>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if n <= max => Ok(Some(n)),
            _ => Err(self.wrong(name, &format!("a whole number in 0..{max}"))),
        }
    }

    /// A finite number above zero.
    pub fn positive(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(name, "a positive number")),
        }
    }

    pub fn required_positive(&self, name: &str) -> Result<f64> {
        self.positive(name)?.ok_or_else(|| self.missing(name))
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(name, "a number"))
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, "true or false"))
    }

    pub fn string(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_str().map(|text| Some(text.to_string())).ok_or_else(|| self.wrong(name, "a string"))
    }

    pub fn strings(&self, name: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let list =
            value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_string)).collect());
        list.map(Some).ok_or_else(|| self.wrong(name, "a list of strings"))
    }

    /// One number or a list of them, as token IDs are written.
    pub fn token_ids(&self, name: &str) -> Result<Vec<u32>> {
        let Some(value) = self.value(name) else { return Ok(Vec::new()) };
        let one = std::slice::from_ref(value);
        let items = value.as_array().map_or(one, Vec::as_slice);
        let ids =
            items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok())).collect::<Option<Vec<u32>>>();
        ids.ok_or_else(|| self.wrong(name, "a token ID or a list of them"))
    }

    pub fn object(&self, name: &str) -> Result<Option<Fields>> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { object: object.clone(), path: self.path(name) })),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// Refuses the field unless it is absent or equal to what the engine computes.
    pub fn only(&self, name: &str, supported: &Value) -> Result<()> {
        match self.value(name) {
            Some(value) if value != supported => Err(Error::unsupported(
                self.path(name),
                format!("{} is {value}; only {supported} is supported", self.path(name)),
            )),
            _ => Ok(()),
        }
    }
}
