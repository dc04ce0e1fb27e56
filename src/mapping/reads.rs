//! What a query reads of a table: columns, and fields of structs where no more of a column is needed. Pure; looks at the plan alone.

use std::collections::BTreeSet;

use datafusion::common::Column;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::scalar::ScalarValue;

/// A column, and the names of fields on the way into it.
pub type FieldPath = Vec<String>;

/// All that an optimised plan reads of the table. Whatever is not clearly a field of a struct counts as the whole column.
pub(super) fn reads(plan: &LogicalPlan, table: &str) -> Vec<FieldPath> {
    let mut columns = BTreeSet::new();
    let mut paths = BTreeSet::new();
    let mut renamed = false;
    let _ = plan.apply(|node| {
        match node {
            LogicalPlan::TableScan(scan) => columns.extend(scan.projected_schema.fields().iter().map(|f| f.name().clone())),
            LogicalPlan::SubqueryAlias(alias) => renamed |= scans(&alias.input),
            _ => {}
        }
        node.apply_expressions(|expression| {
            expression.apply(|part| match path(part, table) {
                Some(path) => {
                    paths.insert(path);
                    Ok(TreeNodeRecursion::Jump)
                }
                None => Ok(TreeNodeRecursion::Continue),
            })
        })
    });
    // Under another name the table's columns are not told apart from others.
    if renamed {
        return columns.into_iter().map(|column| vec![column]).collect();
    }
    paths.retain(|path: &FieldPath| path.first().is_some_and(|column| columns.contains(column)));
    let unseen = columns.into_iter().filter(|column| !paths.iter().any(|path| path.first() == Some(column))).map(|c| vec![c]);
    let all: BTreeSet<FieldPath> = unseen.chain(paths.iter().cloned()).collect();
    // A path that another one leads to says nothing more.
    let within = |path: &FieldPath| (1..path.len()).any(|length| all.contains(&path[..length]));
    all.iter().filter(|path| !within(path)).cloned().collect()
}

/// Whether a plan's columns are those of the table, with nothing between that names them.
fn scans(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Projection(_) => false,
        other => other.inputs().into_iter().any(scans),
    }
}

/// The place in the table that an expression is, if it is no more than that.
fn path(expression: &Expr, table: &str) -> Option<FieldPath> {
    match expression {
        Expr::Column(Column { relation: Some(relation), name, .. }) if relation.table() == table => Some(vec![name.clone()]),
        Expr::ScalarFunction(call) if call.name() == "get_field" => {
            let (base, names) = call.args.split_first()?;
            let mut path = path(base, table)?;
            for name in names {
                let Expr::Literal(ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)), _) = name else {
                    return None;
                };
                path.push(name.clone());
            }
            Some(path)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Fields, Schema};

    use super::*;
    use crate::mapping::project::session;

    async fn of(sql: &str) -> Vec<String> {
        let detail = Fields::from(vec![
            Field::new("title", DataType::Utf8, true),
            Field::new("score", DataType::Float64, true),
            Field::new("tags", DataType::new_list(DataType::Utf8, true), true),
        ]);
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("detail", DataType::Struct(detail), true),
            Field::new("other", DataType::Utf8, true),
        ]);
        let (context, _) = session("books", &Arc::new(schema)).unwrap();
        let plan = context.state().create_logical_plan(sql).await.unwrap();
        let plan = context.state().optimize(&plan).unwrap();
        reads(&plan, "books").into_iter().map(|path| path.join(".")).collect()
    }

    #[tokio::test]
    async fn a_field_of_a_struct_is_read_alone() {
        assert_eq!(of("SELECT id, detail['title'] AS title FROM books").await, ["detail.title", "id"]);
        assert_eq!(
            of("SELECT id, t FROM (SELECT id, unnest(detail['tags']) AS t FROM books) WHERE t <> ''").await,
            ["detail.tags", "id"]
        );
        assert_eq!(of("SELECT id FROM books WHERE detail['title'] IS NOT NULL").await, ["detail.title", "id"]);
    }

    #[tokio::test]
    async fn what_is_taken_whole_is_read_whole() {
        assert_eq!(of("SELECT id, detail AS d FROM books").await, ["detail", "id"]);
        assert_eq!(of("SELECT id, detail AS d, detail['title'] AS t FROM books").await, ["detail", "id"]);
        // Under another name no more than what is read may be told, and never less.
        let covers =
            |reads: &[String], path: &str| reads.iter().any(|read| path == read || path.starts_with(&format!("{read}.")));
        let both = "SELECT id, detail['title'] AS t FROM books UNION ALL SELECT b.id, b.detail['tags'][1] FROM books b WHERE b.other <> ''";
        let reads = of(both).await;
        assert!(["id", "detail.title", "detail.tags", "other"].iter().all(|path| covers(&reads, path)), "{reads:?}");
        let reads =
            of("SELECT b.id, b.detail AS d FROM books b UNION ALL SELECT id, detail FROM books WHERE detail['title'] <> ''")
                .await;
        assert!(["id", "detail.title", "detail.tags", "detail.score"].iter().all(|path| covers(&reads, path)), "{reads:?}");
        assert_eq!(of("SELECT id, x FROM (SELECT id, detail['title'] AS x FROM books) AS books").await, ["detail.title", "id"]);
    }
}
