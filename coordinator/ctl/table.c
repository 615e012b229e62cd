/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/ctl/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"

enum { COLUMNS_MAX = 16, CELL_MAX = 1000, GAP = 2 };

struct fp_table {
    char heads[COLUMNS_MAX][32];
    bool right[COLUMNS_MAX];
    unsigned columns;
    char **cells; /* row by row */
    size_t count, capacity;
};

fp_table *fp_table_new(const char *columns)
{
    fp_table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    for (const char *at = columns; *at && table->columns < COLUMNS_MAX; table->columns++) {
        size_t len = strcspn(at, ",");
        bool right = *at == '>';
        table->right[table->columns] = right;
        snprintf(table->heads[table->columns], sizeof table->heads[0], "%.*s", (int)(len - right),
                 at + right);
        at += len + (at[len] == ',');
    }
    return table;
}

/* C0 and DEL; UTF-8 is passed on, but for the C1 controls, whose first byte is C2. */
static void tame(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        if (*p < 32 || *p == 127)
            *p = '?';
        else if (*p == 0xC2 && p[1] >= 0x80 && p[1] < 0xA0)
            *p = p[1] = '?';
    }
}

void fp_print_text(FILE *out, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return;
    tame(copy);
    fputs(copy, out);
    free(copy);
}

void fp_table_cell(fp_table *table, const char *format, ...)
{
    char text[CELL_MAX];
    va_list args;
    if (!table)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    tame(text);
    if (table->count == table->capacity) {
        size_t capacity = table->capacity ? 2 * table->capacity : 64;
        char **cells = realloc(table->cells, capacity * sizeof *cells);
        if (!cells)
            return;
        table->cells = cells;
        table->capacity = capacity;
    }
    table->cells[table->count++] = strdup(text[0] ? text : "-");
}

void fp_table_size(fp_table *table, const json_t *bytes)
{
    char text[32];
    bool there = json_is_integer(bytes) && json_integer_value(bytes) >= 0;
    fp_table_cell(
        table, "%s",
        there ? fp_config_size_text((uint64_t)json_integer_value(bytes), text, sizeof text) : "-");
}

/* Characters, not bytes: those that continue one in UTF-8 do not count. */
static size_t width(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += (*text & 0xC0) != 0x80;
    return n;
}

static void print_row(const fp_table *table, const char *const cells[], const size_t *widths,
                      FILE *out)
{
    for (unsigned c = 0; c < table->columns; c++) {
        int pad = (int)(widths[c] - width(cells[c]));
        bool last = c + 1 == table->columns;
        if (table->right[c])
            fprintf(out, "%*s%s", pad, "", cells[c]);
        else
            fprintf(out, "%s%*s", cells[c], last ? 0 : pad, "");
        fprintf(out, "%*s", last ? 0 : GAP, "");
    }
    putc('\n', out);
}

void fp_table_end(fp_table *table, FILE *out)
{
    size_t widths[COLUMNS_MAX];
    const char *row[COLUMNS_MAX];
    if (!table)
        return;
    for (unsigned c = 0; c < table->columns; c++) {
        row[c] = table->heads[c];
        widths[c] = width(row[c]);
    }
    for (size_t i = 0; i < table->count; i++) {
        size_t w = table->cells[i] ? width(table->cells[i]) : 0;
        if (w > widths[i % table->columns])
            widths[i % table->columns] = w;
    }
    print_row(table, row, widths, out);
    for (size_t i = 0; i + table->columns <= table->count; i += table->columns) {
        for (unsigned c = 0; c < table->columns; c++)
            row[c] = table->cells[i + c] ? table->cells[i + c] : "?";
        print_row(table, row, widths, out);
    }
    for (size_t i = 0; i < table->count; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table);
}
