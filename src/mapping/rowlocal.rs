//! Holds a query to be row-local: one record in, any number of rows out, the same rows whenever it is asked. Works on
//! DataFusion's logical plan as planned, before any optimisation.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};

/// Refuses a plan that looks beyond one record, naming the expression that does.
pub(super) fn check(plan: &LogicalPlan) -> Result<(), String> {
    let mut refusal = None;
    let walked = plan.apply_with_subqueries(|node| {
        let found = match node_refusal(node) {
            Some(found) => Some(found),
            None => expression_refusal(node),
        };
        Ok(match found {
            Some(found) => {
                refusal = Some(found);
                TreeNodeRecursion::Stop
            }
            None => TreeNodeRecursion::Continue,
        })
    });
    match (refusal, walked) {
        (Some(refusal), _) => Err(refusal),
        (None, Err(error)) => Err(error.to_string()),
        (None, Ok(_)) => Ok(()),
    }
}

fn node_refusal(node: &LogicalPlan) -> Option<String> {
    let what = match node {
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::TableScan(_) => return None,
        LogicalPlan::Aggregate(a) => {
            let mut shown: Vec<String> = a.aggr_expr.iter().chain(&a.group_expr).map(ToString::to_string).collect();
            shown.dedup();
            format!("the aggregate {}", shown.join(", "))
        }
        LogicalPlan::Window(w) => {
            format!("the window {}", w.window_expr.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        LogicalPlan::Join(j) => {
            // As planned, before any optimisation, conditions are still in the filter.
            let equal = j.on.iter().map(|(l, r)| format!("{l} = {r}"));
            let on: Vec<String> = equal.chain(j.filter.iter().map(ToString::to_string)).collect();
            format!("a join{}", if on.is_empty() { String::new() } else { format!(" on {}", on.join(" and ")) })
        }
        LogicalPlan::Distinct(_) => "DISTINCT".to_owned(),
        LogicalPlan::Limit(_) => "LIMIT".to_owned(),
        LogicalPlan::Sort(s) => {
            format!("ORDER BY {}", s.expr.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => "a SELECT that reads no table".to_owned(),
        LogicalPlan::RecursiveQuery(_) => "a recursive query".to_owned(),
        LogicalPlan::Subquery(_) => "a subquery in an expression".to_owned(),
        other => other.display().to_string(),
    };
    Some(format!("{what} is not row-local: a projection may select, filter and unnest one record at a time"))
}

fn expression_refusal(node: &LogicalPlan) -> Option<String> {
    let mut refusal = None;
    let _ = node.apply_expressions(|expr| {
        expr.apply(|inner| {
            refusal = one_expression(inner);
            Ok(if refusal.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    refusal
}

fn one_expression(expr: &Expr) -> Option<String> {
    match expr {
        Expr::ScalarFunction(call) => match call.func.signature().volatility {
            Volatility::Immutable => None,
            _ => Some(format!(
                "{expr} is volatile: it may give another value for the same record, and unchanged records would look changed"
            )),
        },
        Expr::AggregateFunction(_) | Expr::WindowFunction(_) | Expr::GroupingSet(_) => {
            Some(format!("{expr} is not row-local: it looks at more than one record"))
        }
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => {
            Some(format!("the subquery {expr} is not row-local: it looks at more than one record"))
        }
        Expr::OuterReferenceColumn(..) => Some(format!("{expr} refers to an outer query, which is not row-local")),
        Expr::Placeholder(_) | Expr::ScalarVariable(..) => Some(format!("{expr} has no value in a mapping")),
        _ => None,
    }
}

/// The Silver column that an output column of the plan holds unchanged, if it does: through aliases and casts that lose
/// nothing, filters, unions and unnesting of other columns.
pub(super) fn source_column(plan: &LogicalPlan, index: usize) -> Option<String> {
    match plan {
        LogicalPlan::Projection(p) => {
            let mut expr = p.expr.get(index)?;
            loop {
                expr = match expr {
                    Expr::Alias(alias) => &alias.expr,
                    Expr::Cast(cast) => {
                        let from = expr_type(&cast.expr, &p.input)?;
                        if !loses_nothing(&from, cast.field.data_type()) {
                            return None;
                        }
                        &cast.expr
                    }
                    Expr::TryCast(cast) => {
                        let from = expr_type(&cast.expr, &p.input)?;
                        if !loses_nothing(&from, cast.field.data_type()) {
                            return None;
                        }
                        &cast.expr
                    }
                    Expr::Column(column) => {
                        return source_column(&p.input, p.input.schema().index_of_column(column).ok()?);
                    }
                    _ => return None,
                }
            }
        }
        LogicalPlan::Filter(f) => source_column(&f.input, index),
        LogicalPlan::SubqueryAlias(a) => source_column(&a.input, index),
        LogicalPlan::Unnest(u) => {
            let input = *u.dependency_indices.get(index)?;
            let unnested = u.list_type_columns.iter().any(|(i, _)| *i == input) || u.struct_type_columns.contains(&input);
            if unnested { None } else { source_column(&u.input, input) }
        }
        LogicalPlan::Union(u) => {
            let mut found = u.inputs.iter().map(|input| source_column(input, index));
            let first = found.next()??;
            found.all(|other| other.as_deref() == Some(first.as_str())).then_some(first)
        }
        LogicalPlan::TableScan(scan) => Some(scan.projected_schema.field(index).name().clone()),
        _ => None,
    }
}

fn expr_type(expr: &Expr, input: &LogicalPlan) -> Option<DataType> {
    use datafusion::logical_expr::ExprSchemable;
    expr.get_type(input.schema().as_ref()).ok()
}

/// Whether a cast gives different values for different values, and none for none.
fn loses_nothing(from: &DataType, to: &DataType) -> bool {
    use DataType::{Binary, BinaryView, Date32, LargeBinary, LargeUtf8, Utf8, Utf8View};
    if from == to {
        return true;
    }
    let rank = |t: &DataType| match t {
        DataType::Int8 => Some(1),
        DataType::Int16 => Some(2),
        DataType::Int32 => Some(4),
        DataType::Int64 => Some(8),
        _ => None,
    };
    let text = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    match (rank(from), rank(to)) {
        (Some(from), Some(to)) => return from <= to,
        (Some(_), None) => return text(to),
        _ => {}
    }
    (text(from) && text(to))
        || (matches!(from, Binary | LargeBinary | BinaryView) && matches!(to, Binary | LargeBinary | BinaryView))
        || (*from == Date32 && text(to))
}
