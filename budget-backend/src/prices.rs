//! Where prices come from: the shipped catalogue, the community's price file, an operator. Pure: text in,
//! planned additions out; [`crate::admin::prices`] writes them.

pub mod catalogue;
pub mod ceilings;
pub mod decimal;
pub mod fields;
pub mod figures;
pub mod litellm;
pub mod names;
pub mod pairs;
pub mod plan;
pub mod units;
