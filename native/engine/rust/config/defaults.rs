//! generation_config.json: where answers end, and sampling for requests that do not say.

use super::fields::Fields;
use crate::error::Result;

#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    pub eos: Vec<u32>,
    pub temperature: f64,
    pub top_p: f64,
    /// 0 is all.
    pub top_k: usize,
}

const TOP_K_MAX: usize = 1 << 22;

impl Defaults {
    /// `eos`: what config.json says, for repositories without generation_config.json.
    pub fn parse(generation_config: Option<&str>, eos: &[u32]) -> Result<Defaults> {
        let mut defaults = Defaults { eos: eos.to_vec(), temperature: 1.0, top_p: 1.0, top_k: 0 };
        let Some(text) = generation_config else { return Ok(defaults) };
        let fields = Fields::parse(text, "generationConfig")?;
        for token in fields.token_ids("eos_token_id")? {
            if !defaults.eos.contains(&token) {
                defaults.eos.push(token);
            }
        }
        if fields.flag("do_sample")? == Some(false) {
            defaults.temperature = 0.0;
            return Ok(defaults);
        }
        // transformers writes null or 0 where sampling is off.
        defaults.temperature = fields.number("temperature")?.filter(|t| *t >= 0.0).unwrap_or(1.0);
        defaults.top_p = fields.number("top_p")?.filter(|p| *p > 0.0 && *p <= 1.0).unwrap_or(1.0);
        defaults.top_k = fields.index("top_k", TOP_K_MAX)?.unwrap_or(0);
        Ok(defaults)
    }
}
