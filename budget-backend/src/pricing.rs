//! What calls cost. Pure: a price book and arithmetic; nothing is ever free because it is unknown.
//!
//! [`rates`] has the classes, [`terms`] what is beyond one rate per class, [`book`] all prices as of one
//! reading, [`ceiling`] the dearest of them, [`find`] the order in which a call's price is looked for, [`cost`] the arithmetic, [`line`] the
//! same by the output cap; [`dimensions`] and [`off_peak`] when something without a known price occurs.

pub mod book;
pub mod ceiling;
pub mod cost;
mod dimensions;
pub mod find;
pub mod line;
pub mod off_peak;
pub mod rates;
pub mod terms;

pub use book::{Alias, PriceBook, PriceRow};
pub use ceiling::Ceiling;
pub use cost::{CostOverflow, Costed, PER_MILLION, Used, sum_of_products};
pub use find::{Price, PriceMatch, Step};
pub use line::CostLine;
pub use rates::{CLASSES, Rates};
pub use terms::{Card, SizeTier, Terms};

#[cfg(test)]
#[path = "pricing/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "pricing/find_tests.rs"]
mod find_tests;

#[cfg(test)]
#[path = "pricing/unknown_tests.rs"]
mod unknown_tests;

#[cfg(test)]
#[path = "pricing/dimension_tests.rs"]
mod dimension_tests;
