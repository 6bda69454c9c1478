// Copyright (c) pool_worker contributors

// The JDBC driver, which uses the extended protocol for everything, and here prepares a statement
// under a name at its first execution (prepareThreshold=1).
//
// Scenarios and facts are those of the other programs in this folder; what the environment says
// is described in t/060_drivers.pl.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

public class TestJdbc {
    static final int CLIENTS = Integer.parseInt(System.getenv("DRIVER_CLIENTS"));
    static final int ROUNDS = Integer.parseInt(System.getenv("DRIVER_ROUNDS"));
    static final boolean SWITCHES = System.getenv("DRIVER_SWITCHES").equals("1");
    static final int TIMEOUT = Integer.parseInt(System.getenv("DRIVER_TIMEOUT"));

    interface Action {
        void run() throws Exception;
    }

    static String current;
    static int count = 0;

    static boolean isTrue(String fact, boolean holds) {
        System.out.println((holds ? "ok " : "not ok ") + ++count + " - " + current + ": " + fact);
        return holds;
    }

    static void same(String fact, Object got, Object expected) {
        if (!isTrue(fact, Objects.equals(got, expected)))
            System.out.println("# got      " + got + "\n# expected " + expected);
    }

    /** The action fails with this SQLSTATE. */
    static void fails(String fact, String sqlState, Action action) throws Exception {
        try {
            action.run();
            isTrue(fact + ": no error", false);
        } catch (SQLException error) {
            same(fact, error.getSQLState(), sqlState);
        }
    }

    /** At least one client, each given as a list of backends, has had several. */
    static void moved(String fact, List<List<Object>> clients) {
        if (SWITCHES)
            isTrue(fact, clients.stream().anyMatch(backends -> new HashSet<>(backends).size() > 1));
    }

    /** A connection, with pairs of names and values of the driver's parameters. */
    static Connection connect(String... parameters) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("prepareThreshold", "1");
        for (int i = 0; i < parameters.length; i += 2)
            properties.setProperty(parameters[i], parameters[i + 1]);
        return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":"
            + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), properties);
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static PreparedStatement prepared(Connection connection, String sql, Object... values)
        throws SQLException {
        PreparedStatement statement = connection.prepareStatement(sql);
        for (int i = 0; i < values.length; i++)
            statement.setObject(i + 1, values[i]);
        return statement;
    }

    /** The first column of all rows. */
    static List<Object> column(Connection connection, String sql, Object... values)
        throws SQLException {
        List<Object> column = new ArrayList<>();
        try (PreparedStatement statement = prepared(connection, sql, values);
            ResultSet rows = statement.executeQuery()) {
            while (rows.next())
                column.add(rows.getObject(1));
        }
        return column;
    }

    static Object value(Connection connection, String sql, Object... values) throws SQLException {
        return column(connection, sql, values).get(0);
    }

    static List<Object> ids(Connection connection) throws SQLException {
        return column(connection, "SELECT id FROM item ORDER BY id");
    }

    static void transactions() throws Exception {
        try (Connection one = connect(); Connection other = connect()) {
            one.setAutoCommit(false);
            execute(one, "INSERT INTO item VALUES (1, 'one')");
            same("not seen before the commit", ids(other), List.of());
            one.commit();
            same("seen after the commit", ids(other), List.of(1));

            execute(one, "INSERT INTO item VALUES (2, 'two')");
            one.rollback();
            same("gone after a rollback", ids(one), List.of(1));

            execute(one, "INSERT INTO item VALUES (3, 'three')");
            Savepoint savepoint = one.setSavepoint();
            fails("an error is the statement's", "23505",
                () -> execute(one, "INSERT INTO item VALUES (1)"));
            fails("and the transaction's", "25P02", () -> execute(one, "SELECT 1"));
            one.rollback(savepoint);
            execute(one, "INSERT INTO item VALUES (4, 'four')");
            one.commit();
            same("a savepoint keeps what was before it", ids(other), List.of(1, 3, 4));

            List<Object> backends = new ArrayList<>();
            for (int i = 0; i < 4; i++)
                backends.add(value(other, "SELECT pg_backend_pid()"));
            moved("another backend after a transaction", List.of(backends));
        }
    }

    static void preparedStatements() throws Exception {
        String own = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE ";
        try (Connection one = connect(); Connection other = connect();
            PreparedStatement add = one.prepareStatement("SELECT ?::int + 1");
            PreparedStatement concat = other.prepareStatement("SELECT 'a' || ?::text")) {
            for (int number = 0; number < 4; number++) {
                add.setInt(1, number);
                try (ResultSet rows = add.executeQuery()) {
                    rows.next();
                    same("the statement of one", rows.getInt(1), number + 1);
                }
                concat.setString(1, "" + number);
                try (ResultSet rows = concat.executeQuery()) {
                    rows.next();
                    same("the statement of the other", rows.getString(1), "a" + number);
                }
            }
            same("a session has its own", value(one, own + "'SELECT $1::int + 1'"), 1L);
            same("and no others", value(other, own + "'SELECT $1::int + 1'"), 0L);
            fails("an error leaves the statement as it is", "22012",
                () -> value(one, "SELECT 1 / ?::int", 0));
            same("so that it can be used again", value(one, "SELECT 1 / ?::int", 1), 1);
        }

        try (Connection one = connect("preparedStatementCacheQueries", "2")) {
            for (int i = 0; i < 2; i++)
                for (int number = 0; number < 5; number++)
                    same("the driver closes what is too many",
                        value(one, "SELECT " + number + " + ?::int", 1), number + 1);
            same("and has few left", (long) value(one, own + "'%+ $1::int'") <= 2, true);
        }
    }

    static void cursors() throws Exception {
        try (Connection one = connect(); Connection other = connect();
            Statement statement = one.createStatement()) {
            one.setAutoCommit(false);
            statement.setFetchSize(3);
            List<Object> found = new ArrayList<>();
            try (ResultSet rows = statement.executeQuery("SELECT generate_series(1, 10)")) {
                while (rows.next()) {
                    found.add(rows.getInt(1));
                    value(other, "SELECT 1");
                }
            }
            same("a portal returns its rows in portions", found,
                List.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
            one.commit();
            one.setAutoCommit(true);

            execute(one,
                "DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 10)");
            same("WITH HOLD outlives its transaction",
                column(one, "FETCH 2 FROM held"), List.of(1, 2));
            value(other, "SELECT 1");
            execute(one, "MOVE BACKWARD 2 FROM held");
            same("and can be scrolled afterwards",
                column(one, "FETCH 3 FROM held"), List.of(1, 2, 3));
            execute(one, "CLOSE held");
            same("nothing is left of them",
                column(one, "SELECT name FROM pg_cursors WHERE name <> ''"), List.of());
        }
    }

    static void copy() throws Exception {
        try (Connection one = connect(); Connection other = connect()) {
            CopyManager copy = one.unwrap(PGConnection.class).getCopyAPI();
            one.setAutoCommit(false);
            copy.copyIn("COPY item FROM STDIN", new StringReader("1\tone\n2\t\\N\n"));
            same("what is copied in is not seen before the commit", ids(other), List.of());
            one.commit();
            one.setAutoCommit(true);
            StringWriter out = new StringWriter();
            copy.copyOut("COPY item TO STDOUT", out);
            same("what is copied in comes out", out.toString(), "1\tone\n2\t\\N\n");
            fails("bad data is an error", "22P04",
                () -> copy.copyIn("COPY item FROM STDIN", new StringReader("3\n")));
            String word = "x".repeat(100);
            copy.copyIn("COPY item FROM STDIN",
                new StringReader(IntStream.range(3, 5003).mapToObj(id -> id + "\t" + word + "\n")
                    .collect(Collectors.joining())));
            same("much data as well", value(other, "SELECT count(*) FROM item"), 5002L);
        }
    }

    static void notifications() throws Exception {
        try (Connection one = connect(); Connection other = connect()) {
            PGConnection listener = one.unwrap(PGConnection.class);
            execute(one, "LISTEN news");
            for (int number = 0; number < 3; number++) {
                value(other, "SELECT pg_notify('news', ?)", "" + number);
                PGNotification[] notes = listener.getNotifications(1000 * TIMEOUT);
                same("an idle client is notified",
                    Arrays.stream(notes).map(PGNotification::getParameter).toList(),
                    List.of("" + number));
            }
            execute(one, "UNLISTEN news");
            execute(other, "NOTIFY news");
            value(one, "SELECT 1");
            same("but not after UNLISTEN", listener.getNotifications().length, 0);
        }
    }

    static void cancel() throws Exception {
        ExecutorService thread = Executors.newSingleThreadExecutor();
        try (Connection sleeper = connect("ApplicationName", "sleeper");
            Connection other = connect(); Statement statement = sleeper.createStatement()) {
            execute(sleeper, "INSERT INTO item VALUES (1)");
            Future<?> sleep = thread.submit(
                () -> statement.execute("SELECT pg_sleep(" + 2 * TIMEOUT + ")"));
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(TIMEOUT);
            while ((long) value(other, "SELECT count(*) FROM pg_stat_activity"
                + " WHERE state = 'active' AND wait_event = 'PgSleep'"
                + " AND application_name = 'sleeper'") != 1)
                if (System.nanoTime() > deadline)
                    throw new Exception("waited in vain");
            statement.cancel();
            fails("the statement ends", "57014", () -> {
                try {
                    sleep.get();
                } catch (java.util.concurrent.ExecutionException error) {
                    throw (Exception) error.getCause();
                }
            });
            same("and the session goes on", ids(sleeper), List.of(1));

            statement.setQueryTimeout(1);
            fails("setQueryTimeout", "57014",
                () -> statement.execute("SELECT pg_sleep(" + 2 * TIMEOUT + ")"));
            same("likewise", ids(sleeper), List.of(1));
        } finally {
            thread.shutdown();
        }
    }

    static int[] insertAll(Connection connection, int... numbers) throws SQLException {
        try (PreparedStatement insert = connection.prepareStatement(
            "INSERT INTO item VALUES (6 / ?::int)")) {
            for (int number : numbers) {
                insert.setInt(1, number);
                insert.addBatch();
            }
            return insert.executeBatch();
        }
    }

    static void pipeline() throws Exception {
        try (Connection one = connect(); Statement statement = one.createStatement();
            PreparedStatement insert = one.prepareStatement("INSERT INTO item VALUES (?, ?)")) {
            for (int i = 1; i <= 300; i++) {
                insert.setInt(1, i);
                insert.setString(2, "" + i);
                insert.addBatch();
            }
            same("a batch of a prepared statement",
                Arrays.stream(insert.executeBatch()).sum(), 300);
            same("has its effect", value(one, "SELECT sum(word::int) FROM item"), 45150L);
            statement.addBatch("DELETE FROM item WHERE id <= 100");
            statement.addBatch("SET drivers.mine = 'batch'");
            statement.addBatch("DELETE FROM item WHERE id <= 150");
            same("a batch of several statements", Arrays.toString(statement.executeBatch()),
                "[100, 0, 50]");
            same("a setting in it", value(one, "SHOW drivers.mine"), "batch");
        }
        try (Connection one = connect("reWriteBatchedInserts", "true");
            PreparedStatement insert = one.prepareStatement("INSERT INTO item VALUES (?)")) {
            one.setAutoCommit(false);
            for (int i = 1001; i <= 1050; i++) {
                insert.setInt(1, i);
                insert.addBatch();
            }
            insert.executeBatch();
            one.commit();
            same("reWriteBatchedInserts", value(one, "SELECT count(*) FROM item WHERE id > 1000"),
                50L);
        }
    }

    static void pipelineError() throws Exception {
        try (Connection one = connect()) {
            one.setAutoCommit(false);
            fails("one of a batch fails", "22012", () -> insertAll(one, 1, 2, 0, 3));
            fails("and the transaction with it", "25P02", () -> ids(one));
            one.rollback();
            same("then none has had an effect", ids(one), List.of());
            same("the session goes on", insertAll(one, 1, 2, 3).length, 3);
            Savepoint savepoint = one.setSavepoint();
            fails("one fails after a savepoint", "22012", () -> insertAll(one, 6, 0));
            one.rollback(savepoint);
            insertAll(one, 6);
            one.commit();
            same("which keeps what was before it", ids(one), List.of(1, 2, 3, 6));

            one.setAutoCommit(true);
            try {
                insertAll(one, 4, 0, 5);
                isTrue("no error", false);
            } catch (BatchUpdateException error) {
                same("without BEGIN", error.getUpdateCounts().length, 3);
            }
            same("the batch is one transaction", ids(one), List.of(1, 2, 3, 6));
        }
    }

    static void settings() throws Exception {
        try (Connection one = connect(); Connection other = connect()) {
            execute(one, "SET work_mem = '1111kB'");
            value(one, "SELECT set_config('drivers.mine', ?, false)", "mine");
            one.setAutoCommit(false);
            execute(one, "SET work_mem = '2222kB'; SET LOCAL drivers.mine = 'local'");
            one.rollback();
            one.setAutoCommit(true);
            for (int i = 0; i < 3; i++) {
                same("SET stays, unless it is rolled back", value(one, "SHOW work_mem"), "1111kB");
                same("set_config stays", value(one, "SHOW drivers.mine"), "mine");
                same("others have the default", value(other, "SHOW work_mem"), "4MB");
            }
            execute(one, "SET ROLE drivers_other; SET TIME ZONE 'Asia/Tokyo'");
            value(other, "SELECT 1");
            same("SET ROLE", value(one, "SELECT session_user || ' ' || current_user"),
                "drivers drivers_other");
            same("the driver knows the time zone",
                one.unwrap(PGConnection.class).getParameterStatus("TimeZone"), "Asia/Tokyo");
            same("and so does the server", value(one, "SHOW timezone"), "Asia/Tokyo");
            execute(one, "RESET ROLE; RESET ALL");
            same("RESET ALL", value(one, "SHOW work_mem"), "4MB");

            one.setSchema("drivers_schema");
            one.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            one.setClientInfo("ApplicationName", "renamed");
            value(other, "SELECT 1");
            same("setSchema", one.getSchema(), "drivers_schema");
            same("setTransactionIsolation", value(one, "SHOW transaction_isolation"),
                "serializable");
            same("setClientInfo", value(one, "SHOW application_name"), "renamed");
            one.setReadOnly(true);
            one.setAutoCommit(false);
            fails("setReadOnly", "25006", () -> execute(one, "DELETE FROM public.item"));
            one.rollback();
            same("isValid", one.isValid(TIMEOUT), true);
        }
    }

    static void startup() throws Exception {
        try (Connection other = connect();
            Connection one = connect("ApplicationName", "my name", "currentSchema",
                "drivers_schema", "options", "-c work_mem=3333kB -c drivers.mine=at\\ start")) {
            for (int i = 0; i < 3; i++) {
                same("application_name", value(one, "SHOW application_name"), "my name");
                same("client_encoding, which is always this",
                    value(one, "SHOW client_encoding"), "UTF8");
                same("currentSchema", value(one, "SHOW search_path"), "drivers_schema");
                same("options", value(one, "SHOW work_mem"), "3333kB");
                same("options, of no module", value(one, "SHOW drivers.mine"), "at start");
                same("others have the default", value(other, "SHOW work_mem"), "4MB");
            }
            execute(one, "SET work_mem = '1MB'");
            execute(one, "RESET work_mem");
            same("RESET goes back to them", value(one, "SHOW work_mem"), "3333kB");
        }
    }

    static void reconnect() throws Exception {
        for (int i = 0; i < ROUNDS; i++) {
            try (Connection one = connect()) {
                // waits for the one before, if it still holds it
                execute(one, "SELECT pg_advisory_lock(1)");
                if (!value(one, "SHOW work_mem").equals("4MB") || !ids(one).isEmpty())
                    throw new Exception("connection " + i + " has inherited something");
                execute(one, "SET work_mem = '1MB'; CREATE TEMPORARY TABLE t (i int)");
                one.setAutoCommit(false);
                execute(one, "INSERT INTO item VALUES (1)");
            }
        }
        isTrue("no connection finds what the one before has left", true);
    }

    /** One of many clients, whose session differs from all others'. */
    static class Client {
        final int number;
        final Connection connection;
        final List<Object> backends = new ArrayList<>();

        Client(int number) throws SQLException {
            this.number = number;
            connection = connect("ApplicationName", "client " + number);
            execute(connection, "SET work_mem = '" + (number + 100) + "kB'");
            value(connection, "SELECT set_config('drivers.mine', ?, false)", "value " + number);
            connection.setAutoCommit(false);
        }

        /** Whether the session is in order. */
        boolean transaction() throws SQLException {
            Savepoint savepoint = connection.setSavepoint();
            execute(connection, "SET work_mem = '" + (number + 200) + "kB'");
            connection.rollback(savepoint);
            Object me = value(connection,
                "SELECT concat_ws('|', current_setting('application_name'),"
                + " current_setting('work_mem'), current_setting('drivers.mine'), "
                + number + " + ?::int)", 1);
            backends.add(value(connection, "SELECT pg_backend_pid()"));
            connection.commit();
            return me.equals("client " + number + "|" + (number + 100) + "kB|value " + number + "|"
                + (number + 1));
        }
    }

    static void interleaved() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(CLIENTS);
        List<Client> clients = new ArrayList<>();
        List<Boolean> found = new ArrayList<>();

        try {
            for (int i = 0; i < CLIENTS; i++)
                clients.add(new Client(i));
            List<Callable<Boolean>> all = clients.stream()
                .map(client -> (Callable<Boolean>) client::transaction).toList();
            for (int i = 0; i < ROUNDS; i++)
                for (Future<Boolean> result : threads.invokeAll(all))
                    found.add(result.get());
            same("each client finds its own session", found,
                Collections.nCopies(CLIENTS * ROUNDS, true));
            moved("sessions have moved", clients.stream().map(client -> client.backends).toList());
        } finally {
            threads.shutdown();
            for (Client client : clients)
                client.connection.close();
        }
    }

    /** Run all scenarios.  One that throws has failed, and the next one is run. */
    public static void main(String[] args) {
        Map<String, Action> scenarios = new LinkedHashMap<>();
        scenarios.put("transactions", TestJdbc::transactions);
        scenarios.put("prepared statements", TestJdbc::preparedStatements);
        scenarios.put("cursors", TestJdbc::cursors);
        scenarios.put("copy", TestJdbc::copy);
        scenarios.put("notify", TestJdbc::notifications);
        scenarios.put("cancel", TestJdbc::cancel);
        scenarios.put("pipeline", TestJdbc::pipeline);
        scenarios.put("pipeline error", TestJdbc::pipelineError);
        scenarios.put("settings", TestJdbc::settings);
        scenarios.put("startup", TestJdbc::startup);
        scenarios.put("reconnect", TestJdbc::reconnect);
        scenarios.put("interleaved", TestJdbc::interleaved);
        for (Map.Entry<String, Action> scenario : scenarios.entrySet()) {
            current = scenario.getKey();
            try {
                try (Connection connection = connect()) {
                    execute(connection, "DELETE FROM item");
                }
                scenario.getValue().run();
            } catch (Exception error) {
                isTrue("no unexpected error", false);
                System.out.println("# " + error);
                for (StackTraceElement line : error.getStackTrace())
                    System.out.println("#   " + line);
            }
        }
        System.out.println("1.." + count);
    }
}
