//! The schema explains itself.

use sqlx::PgPool;

#[sqlx::test(migrator = "budget_backend::db::MIGRATIONS")]
async fn every_table_and_column_has_a_comment(pool: PgPool) {
    let silent: Vec<String> = sqlx::query_scalar(
        "select c.relname || coalesce('.' || a.attname, '')
           from pg_class c
           left join lateral (
               select attname, attnum from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped
               union all select null, 0) a on true
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname <> '_sqlx_migrations' and col_description(c.oid, a.attnum) is null
            and (a.attnum > 0 or obj_description(c.oid, 'pg_class') is null)
          order by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(silent.is_empty(), "without a comment: {silent:?}");
    let commented: i64 = sqlx::query_scalar("select count(*) from pg_description where objsubid > 0 and classoid = 'pg_class'::regclass and objoid = 'llm_requests'::regclass")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(commented > 30, "the question is asked of the right tables");
}
