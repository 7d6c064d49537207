//! Rotary position embedding: the inverse frequencies of a head, scaled as config.json asks
//! (transformers, modeling_rope_utils.py: default, linear, llama3).

use super::fields::Fields;
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub struct Rope {
    /// One per pair of dimensions (i, i + head_dim/2); the angle at position p is p times this.
    pub inverse_frequencies: Vec<f32>,
}

const THETA_DEFAULT: f64 = 10_000.0;

impl Rope {
    pub fn parse(root: &Fields, head_dim: usize) -> Result<Rope> {
        // transformers 5 writes rope_parameters with rope_theta inside, 4 writes rope_theta and rope_scaling.
        let scaling = match root.object("rope_parameters")? {
            Some(fields) => Some(fields),
            None => root.object("rope_scaling")?,
        };
        for fields in [Some(root), scaling.as_ref()].into_iter().flatten() {
            let partial = fields.number("partial_rotary_factor")?.unwrap_or(1.0);
            if partial != 1.0 {
                let path = fields.path("partial_rotary_factor");
                return Err(Error::unsupported(path.clone(), format!("{path} is {partial}; only 1 is supported")));
            }
        }
        let inner = scaling.as_ref().map(|fields| fields.positive("rope_theta")).transpose()?.flatten();
        let theta = inner.or(root.positive("rope_theta")?).unwrap_or(THETA_DEFAULT);
        let frequencies: Vec<f64> =
            (0..head_dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64)).collect();
        let scaled = match &scaling {
            Some(fields) => scale(fields, frequencies)?,
            None => frequencies,
        };
        Ok(Rope { inverse_frequencies: scaled.into_iter().map(|f| f as f32).collect() })
    }
}

fn scale(fields: &Fields, frequencies: Vec<f64>) -> Result<Vec<f64>> {
    let name = if fields.has("rope_type") { "rope_type" } else { "type" };
    match fields.string(name)?.as_deref() {
        None | Some("default") => Ok(frequencies),
        Some("linear") => {
            let factor = fields.required_positive("factor")?;
            Ok(frequencies.into_iter().map(|f| f / factor).collect())
        }
        Some("llama3") => llama3(fields, frequencies),
        Some(other) => Err(Error::unsupported(
            fields.path(name),
            format!("{} is {other}; default, linear and llama3 are supported", fields.path(name)),
        )),
    }
}

/// Long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
fn llama3(fields: &Fields, frequencies: Vec<f64>) -> Result<Vec<f64>> {
    let factor = fields.required_positive("factor")?;
    let low = fields.required_positive("low_freq_factor")?;
    let high = fields.required_positive("high_freq_factor")?;
    let context = fields.required_positive("original_max_position_embeddings")?;
    if high <= low {
        let path = fields.path("high_freq_factor");
        return Err(Error::invalid(path.clone(), format!("{path} must be above low_freq_factor")));
    }
    let scaled = frequencies.into_iter().map(|f| {
        let wavelength = 2.0 * std::f64::consts::PI / f;
        if wavelength < context / high {
            f
        } else if wavelength > context / low {
            f / factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            (1.0 - smooth) * f / factor + smooth * f
        }
    });
    Ok(scaled.collect())
}
