// Copyright (c) pool_worker contributors

// What the JDBC driver makes of a primary and its standbys: which of them it connects to for each
// targetServerType.  Arguments are the addresses, of the primary first; see t/090_replicas.pl.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Properties;
import java.util.TreeSet;

public class TestReplicas {
    /** Connections in a row that find no other server than before, until we believe that. */
    static final int TRIES = 40;

    static Connection connect(String[] addresses, String type) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("targetServerType", type);
        properties.setProperty("loadBalanceHosts", "true");
        properties.setProperty("hostRecheckSeconds", "0");
        return DriverManager.getConnection("jdbc:postgresql://" + String.join(",", addresses)
            + "/postgres", properties);
    }

    static String value(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
            ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    /** The servers that were found, and of each whether it can be written. */
    static String found(String[] addresses, String type) throws SQLException {
        TreeSet<String> servers = new TreeSet<>();
        for (int i = 0; i < TRIES; i++) {
            try (Connection connection = connect(addresses, type)) {
                boolean isPrimary = value(connection, "SELECT pg_is_in_recovery()").equals("f");
                // the primary first
                if (servers.add((isPrimary ? "0 t " : "1 f ") + value(connection, "SHOW port")))
                    i = 0;
            }
        }
        StringBuilder text = new StringBuilder(type + ":");
        servers.forEach(server -> text.append(" " + server.split(" ")[1]));
        return text.toString();
    }

    public static void main(String[] addresses) throws SQLException {
        for (String type : new String[] {"primary", "secondary", "preferSecondary", "any"})
            System.out.println(found(addresses, type));
        try (Connection connection = connect(addresses, "secondary");
            Statement statement = connection.createStatement()) {
            statement.execute("INSERT INTO t VALUES (1)");
        } catch (SQLException error) {
            System.out.println("write: " + error.getSQLState());
        }
    }
}
