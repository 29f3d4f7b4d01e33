/* Prints the primes up to its argument. */
#include <stdio.h>
#include <stdlib.h>

static int is_prime(int number)
{
    for (int part = 2; part * part <= number; part++)
        if (number % part == 0)
            return 0;
    return number > 1;
}

int main(int count, char **words)
{
    int last = count > 1 ? atoi(words[1]) : 20;
    for (int number = 2; number <= last; number++)
        if (is_prime(number))
            printf("%d\n", number);
    return 0;
}
