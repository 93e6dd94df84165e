use super::*;

fn question(from: &str, to: &str, by: &str) -> Question {
    Question {
        filter: Filter::default(),
        range: Range::between(from, to).unwrap(),
        columns: columns(by).unwrap(),
        order: Order::Name,
        limit: 10,
        after: None,
    }
}

#[test]
fn a_user_comes_with_its_team_and_a_model_with_its_provider() {
    let names =
        |by: &str| columns(by).map(|found| found.iter().map(Column::name).collect::<Vec<_>>().join(" "));
    for (by, expected) in [
        ("", ""),
        ("team", "team"),
        ("user", "team user"),
        ("team,user,day", "team user day"),
        ("model,provider", "provider model"),
        ("tag:project,hour", "tag:project hour"),
        ("team,team", "team"),
    ] {
        assert_eq!(names(by).as_deref(), Ok(expected), "{by}");
    }
    for by in ["colour", "tag:", "Team", "org,team,user,model,api,day,hour"] {
        assert!(columns(by).unwrap_err().starts_with("by: expected"), "{by}");
    }
}

#[test]
fn a_time_is_a_month_or_days_or_whole_hours() {
    let month = Range::month("2026-02").unwrap();
    assert_eq!(month, Range::between("2026-02-01", "2026-03-01").unwrap());
    assert_eq!(Range::month_of(month.to_unix_s - 1), Some(month));
    for text in ["", "2026-13", "2026-1", "November", "9999-12", "2026-11-01"] {
        assert!(Range::month(text).unwrap_err().contains("as in month=2026-11"), "{text}");
    }
    let hour = Range::between("2026-11-23T14:00:00Z", "2026-11-23T15:00:00Z").unwrap();
    assert_eq!((hour.to_unix_s - hour.from_unix_s, hour.is_of_days()), (3_600, false));
    assert!(Range::between("2026-11-23T01:00:00+01:00", "2026-11-24").unwrap().is_of_days());
    for (from, to, said) in [
        ("soon", "2026-11-24", "from: expected a UTC day"),
        ("2026-11-23", "2026-11-24T00:30:00Z", "to: expected a UTC day"),
        ("2026-11-23", "2026-11-24T00:00:00.5Z", "to: expected a UTC day"),
        ("2026-11-23", "2026-11-23", "to: expected a time after from"),
        ("2026-11-24", "2026-11-23", "to: expected a time after from"),
    ] {
        let problem = Range::between(from, to).unwrap_err();
        assert!(problem.starts_with(said), "{from} {to}: {problem}");
    }
}

#[test]
fn days_are_read_where_they_suffice_and_hours_for_a_week_at_most() {
    let tagged = |tag: &str| {
        let tag = Some((tag.to_owned(), "x".to_owned()));
        Question { filter: Filter { tag, ..Filter::default() }, ..question("2026-11-01", "2026-11-08", "") }
    };
    assert_eq!(question("2026-11-01", "2026-12-01", "user,model,day").source(), Source::Days);
    for by_hour in [
        question("2026-11-01", "2026-11-02", "hour"),
        question("2026-11-01", "2026-11-02", "tag:project"),
        question("2026-11-01T01:00:00Z", "2026-11-02", "team"),
        tagged("project"),
    ] {
        assert_eq!((by_hour.source(), by_hour.check()), (Source::Hours, Ok(())), "{by_hour:?}");
    }
    for (asked, said) in [
        (question("2020-01-01", "2026-11-01", "team"), "at most 1100 days"),
        (question("2026-11-01", "2026-11-09", "hour"), "at most 168 hours"),
    ] {
        assert!(asked.check().unwrap_err().contains(said), "{asked:?}");
    }
}
