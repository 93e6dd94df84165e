use proptest::prelude::*;

use super::*;

fn any_ladder() -> impl Strategy<Value = Ladder> {
    (0..=100_u32, 0..=100_u32, 0..=60_u64).prop_map(|(warn, at, floor)| ladder(warn, at, floor))
}

fn any_touch(budget_id: i64) -> impl Strategy<Value = Touch> {
    (0..3_000_i64, any_ladder(), any::<bool>(), 0..5_u8).prop_map(move |(limit, ladder, strict, mode)| {
        Touch {
            strict,
            mode: if mode == 0 { Mode::Shadow } else { Mode::Enforce },
            ..touch(budget_id, limit, ladder)
        }
    })
}

proptest! {
    /// Whatever the ladders: no enforcing budget is passed (`decided` sees to it), a call is rewritten to its
    /// map's model or not at all, a clamp is no lower than the floors of those it serves, and what is clamped or
    /// refused didn't fit as it was.
    #[test]
    fn ladders_never_overspend(
        asked in proptest::collection::vec(any_touch(1), 0..3),
        shared in any_touch(2),
        of_target in any_touch(3),
        spent in 0..3_000_i64,
    ) {
        let mut of_asked: Vec<Touch> = asked
            .into_iter()
            .zip(10..)
            .map(|(mut touch, budget_id)| {
                touch.key.counter.budget_id = budget_id;
                touch
            })
            .collect();
        of_asked.push(shared.clone());
        let terms = targeting(&of_asked, &[shared, of_target]);
        let ask = ask(1);
        let decision = decided(&ask, &terms, spent);
        let (model, amount) = match &decision {
            Decision::Granted(grant) => (grant.rewrite.model.as_deref(), grant.held_nanousd),
            Decision::Refused(_) => (None, 0),
            other => panic!("{other:?}"),
        };
        prop_assert!(model.is_none_or(|model| model == CHEAP));
        let Decision::Granted(grant) = &decision else { return Ok(()) };
        let run = model.map_or(&terms, |model| &terms.targets[model]);
        let quote = model.map_or_else(|| ask.quote.clone(), |model| ask.others.quote(model).unwrap());
        let strict = run.strict_budget().is_some();
        let (line, whole) = match &quote.bound {
            Ok(bound) if strict => (bound.line, bound.amount_nanousd),
            _ => (quote.line, quote.amount_nanousd),
        };
        if let Some(cap) = grant.rewrite.output_cap_tokens {
            prop_assert_eq!(line.amount_nanousd(cap), Ok(amount));
            let counters = counters(run, spent);
            let enforcing = || run.touches.iter().filter(|touch| touch.enforces());
            let served: Vec<&Touch> = enforcing().filter(|touch| short(touch, &counters, whole).is_some()).collect();
            prop_assert!(!served.is_empty());
            for touch in served {
                prop_assert!(touch.ladder.clamp.as_ref().is_some_and(|clamp| cap >= clamp.floor_tokens));
            }
            // One token more would have been too much.
            let more = line.amount_nanousd(cap + 1).unwrap();
            prop_assert!(enforcing().any(|touch| short(touch, &counters, more).is_some()));
        } else {
            prop_assert_eq!(amount, whole);
        }
    }
}
