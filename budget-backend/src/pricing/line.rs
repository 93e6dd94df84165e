//! What a call costs by its output cap, exactly.

use std::collections::BTreeMap;

use purser_protocol::Usage;

use super::cost::{CostOverflow, PER_MILLION, Used};
use super::find::Price;

/// What a call costs by its output cap: the same arithmetic as that of its amount, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostLine {
    /// What it costs without any output, in parts of a nano-USD.
    fixed: u128,
    /// What each token of the cap adds, over all choices, in the same parts.
    per_cap_token: u128,
    /// So many parts are a nano-USD.
    parts: u128,
}

impl CostLine {
    /// Of products of count and nano-USD per million, and of what each token of the cap adds.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn new<const N: usize>(
        fixed: [(u64, i64); N],
        choices: u64,
        output_rate: i64,
    ) -> Result<Self, CostOverflow> {
        let product = |(count, rate): (u64, i64)| {
            u128::try_from(rate).map(|rate| rate.saturating_mul(count.into())).map_err(|_| CostOverflow)
        };
        let fixed = fixed
            .into_iter()
            .try_fold(0_u128, |sum, class| sum.checked_add(product(class)?).ok_or(CostOverflow))?;
        Ok(Self { fixed, per_cap_token: product((choices, output_rate))?, parts: PER_MILLION })
    }

    /// What costs the same at any cap, nano-USD.
    #[must_use]
    pub fn level(amount_nanousd: i64) -> Self {
        Self { fixed: amount_nanousd.max(0).unsigned_abs().into(), per_cap_token: 0, parts: 1 }
    }

    /// What it costs with a cap, nano-USD, rounded up.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn amount_nanousd(&self, cap_tokens: u64) -> Result<i64, CostOverflow> {
        let output = self.per_cap_token.checked_mul(cap_tokens.into());
        let total = output.and_then(|output| output.checked_add(self.fixed)).ok_or(CostOverflow)?;
        i64::try_from(total.div_ceil(self.parts.max(1))).map_err(|_| CostOverflow)
    }

    /// The largest cap that an amount pays; `None` when it doesn't even pay for what comes before the
    /// output, or when output costs nothing, so that no cap saves anything.
    #[must_use]
    pub fn most_tokens(&self, amount_nanousd: i64) -> Option<u64> {
        let pays = u128::try_from(amount_nanousd).ok()?.saturating_mul(self.parts);
        let tokens = pays.checked_sub(self.fixed)?.checked_div(self.per_cap_token)?;
        Some(u64::try_from(tokens).unwrap_or(u64::MAX))
    }
}

impl Default for CostLine {
    /// What costs nothing.
    fn default() -> Self {
        Self::level(0)
    }
}

impl Price {
    /// What a call costs at any output cap, from its usage without output and with one token of the cap.
    ///
    /// # Errors
    /// [`CostOverflow`].
    pub fn line(
        &self,
        without_output: &Usage,
        with_one_token: &Usage,
        service_tier: Option<&str>,
    ) -> Result<CostLine, CostOverflow> {
        let units = BTreeMap::new();
        let exact = |usage| self.exact(Used { usage, units: &units, service_tier });
        let (without, with) = (exact(without_output)?, exact(with_one_token)?);
        let per_cap_token = with.amount.parts.saturating_sub(without.amount.parts);
        Ok(CostLine { fixed: without.amount.parts, per_cap_token, parts: without.amount.of })
    }
}
